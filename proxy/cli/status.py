"""`proxyctl status`: what runs and what is under way."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from proxy.cli.options import examples, json_option, service_option, talks
from proxy.cli.overview import overview
from proxy.cli.terminal import is_live, width
from proxy.errors import NotRunningError, UnknownServiceError

if TYPE_CHECKING:
    from proxy.cli.client import Client

Json = dict[str, Any]

_TICK = 2.0  # seconds after which a screen is drawn again without an event: connections come and go silently
_RETURN = 3.0  # seconds for a proxy that replaces itself to answer
_PACE = 0.1  # seconds that events are gathered for, so that many of them are one drawing


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
    steered and fallen through to a worker (with datapath "steer"), healthy replicas and age; how far a drain is and
    when its deadline comes; how the last swap ended.
    """
    if watch:
        _watch(client, service, as_json=as_json)
    else:
        _show(_status(client, service), as_json=as_json)


def _status(client: Client, service: str | None) -> Json:
    status: Json = client.get("/v1/status")
    if service is not None:
        if service not in status["services"]:
            known = ", ".join(status["services"])
            raise UnknownServiceError(f"there is no service {service}", hint=f"there is {known}")
        status["services"] = {service: status["services"][service]}
    return status


def _show(status: Json, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(status, indent=2 if sys.stdout.isatty() else None))
    else:
        click.echo("\n".join(overview(status, now=time.time(), width=width())))


def _watch(client: Client, service: str | None, *, as_json: bool) -> None:
    """Draw at once, then whenever something happens, until Ctrl-C. Raises NotRunningError when the proxy has gone."""
    from proxy.cli.events import Events, StreamEndedError  # noqa: PLC0415 - only to watch
    from proxy.cli.follow import GoneError, insist  # noqa: PLC0415

    live = is_live(sys.stdout) and not as_json
    if live:
        sys.stdout.write("\n" * (_lines() - 1))  # what is on the screen moves up, instead of being drawn over
    try:
        with Events(client) as events:
            while True:
                try:
                    _draw(_status(client, service), live=live, as_json=as_json)
                    while not events.wait(_TICK) and not live:
                        pass  # nothing has happened, and a list of equal pictures helps nobody
                    until = time.monotonic() + _PACE
                    while (left := until - time.monotonic()) > 0:
                        events.wait(left)
                except (StreamEndedError, NotRunningError):
                    insist(client, events.reopen, _RETURN, lambda _: None)
    except GoneError as gone:
        raise gone.last from gone
    except KeyboardInterrupt:
        if live:
            click.echo()


def _draw(status: Json, *, live: bool, as_json: bool) -> None:
    if not live:
        _show(status, as_json=as_json)
        sys.stdout.write("" if as_json else "\n")
    else:
        lines = overview(status, now=time.time(), width=width())[: _lines() - 1]
        # Home, each line with the rest of what stood there erased, then everything below: no flicker.
        sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
    sys.stdout.flush()


def _lines() -> int:
    import shutil  # noqa: PLC0415 - only to watch

    return shutil.get_terminal_size().lines
