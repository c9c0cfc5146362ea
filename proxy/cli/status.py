"""`proxyctl status`: what runs and what is under way."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from proxy.cli.options import examples, json_option, service_option, talks
from proxy.cli.overview import overview
from proxy.cli.terminal import is_live, width
from proxy.errors import UnknownServiceError

if TYPE_CHECKING:
    from proxy.cli.client import Client

Json = dict[str, Any]


@click.command(
    epilog=examples("proxyctl status", "proxyctl status --watch", "proxyctl status --json | jq .services.web.active")
)
@service_option
@click.option("-w", "--watch", is_flag=True, help="Go on showing it as it changes, until Ctrl-C.")
@json_option("Print the API's status object; with --watch one per line.")
@talks
def command(client: Client, service: str | None, *, watch: bool, as_json: bool) -> None:
    """Show what runs and what is under way.

    For each service: its state, its listeners and active version; the data path in effect, and why if it is not the
    configured one; each generation with its connections, requests in flight (with protocol "http"), connections
    steered and fallen through to a worker (with datapath "steer"), healthy replicas and age; how far a drain is, with
    the connections left and when its deadline comes; the phases of a swap that is under way; how the last one ended.

    With --watch a terminal shows it in place, also while no proxy answers; elsewhere each change is printed, until
    none does. A narrow screen shows less of it. Colours are for terminals, and not with NO_COLOR.
    """
    if watch:
        from proxy.cli import watch as watching  # noqa: PLC0415 - only to watch

        show = (
            watching.on_screen if is_live(sys.stdout) and not as_json else partial(watching.as_lines, as_json=as_json)
        )
        show(client, partial(_status, service=service))
    elif as_json:
        click.echo(json.dumps(_status(client, service), indent=2 if sys.stdout.isatty() else None))
    else:
        click.echo("\n".join(overview(_status(client, service), now=time.time(), width=width())))


def _status(client: Client, service: str | None) -> Json:
    status: Json = client.get("/v1/status")
    if service is not None:
        if service not in status["services"]:
            known = ", ".join(status["services"])
            raise UnknownServiceError(f"there is no service {service}", hint=f"there is {known}")
        status["services"] = {service: status["services"][service]}
    return status
