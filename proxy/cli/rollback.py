"""`proxyctl rollback`: back to what served before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from proxy.cli.operate import operate
from proxy.cli.options import examples, json_option, service_option, talks

if TYPE_CHECKING:
    from proxy.cli.client import Client


@click.command(epilog=examples("proxyctl rollback", "proxyctl rollback --service web --deadline 10s --json"))
@service_option
@click.option("--deadline", metavar="TIME", help="How long open connections may go on where they are: 30s, 2m.")
@click.option("--no-wait", is_flag=True, help="Return when it has begun.")
@json_option("Progress goes to stderr; the last line of stdout is one JSON object.")
@talks
def command(client: Client, service: str | None, deadline: str | None, *, no_wait: bool, as_json: bool) -> int:
    """Go back to the previous generation.

    At once when it still runs (drain.keep_warm in the config), otherwise its version is started like in a swap.

    Ctrl-C stops the waiting, not the rollback, and exits with 130. Exits with 1 when it failed: then what served before
    still serves.
    """
    body = {} if deadline is None else {"deadline": deadline}
    return operate(client, "rollback", service, body, wait=not no_wait, as_json=as_json)
