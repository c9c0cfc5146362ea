"""`proxyctl swap`: another version behind the same port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from proxy.cli.operate import operate
from proxy.cli.options import examples, json_option, service_option, talks

if TYPE_CHECKING:
    from proxy.cli.client import Client


@click.command(
    epilog=examples(
        "proxyctl swap v2",
        "proxyctl swap v2 --service web --deadline 2m",
        'proxyctl swap 9f1c2ab --command "./app-9f1c2ab --port {port}"',
        "proxyctl swap v2 --json | tail -n 1 | jq .result",
    )
)
@click.argument("version")
@service_option
@click.option("--deadline", metavar="TIME", help="How long open connections may go on with the old version: 30s, 2m.")
@click.option("--command", "words", metavar="COMMAND", help="How to run a version that the config does not know.")
@click.option("--no-wait", is_flag=True, help="Return when the swap has begun.")
@json_option("Progress goes to stderr; the last line of stdout is one JSON object.")
@talks
def command(
    client: Client,
    version: str,
    service: str | None,
    deadline: str | None,
    words: str | None,
    *,
    no_wait: bool,
    as_json: bool,
) -> int:
    """Put another version behind the service's port.

    VERSION is started and must become healthy; then new connections go to it in one step, and open ones may finish
    with the old version until the deadline. A version that does not become healthy changes nothing.

    Waits until the old version is gone. Ctrl-C stops the waiting, not the swap, and exits with 130. Exits with 1 when
    the swap failed or was rolled back: then the old version still serves.
    """
    body = {"version": version, "deadline": deadline, "command": words}
    given = {name: value for name, value in body.items() if value is not None}
    return operate(client, "swap", service, given, wait=not no_wait, as_json=as_json)
