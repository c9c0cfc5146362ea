"""`proxyctl reload`: apply a changed config."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from proxy.cli.options import examples, json_option, talks

if TYPE_CHECKING:
    from proxy.cli.client import Client


@click.command(epilog=examples("proxyctl check && proxyctl reload", "proxyctl reload --json"))
@json_option("Print what changed as one JSON object.")
@talks
def command(client: Client, *, as_json: bool) -> None:
    """Apply a changed config.

    The proxy reads the file it was started with. An invalid one changes nothing: every error is shown, and the exit
    code is 2.
    """
    answer = client.post("/v1/reload")
    if as_json:
        click.echo(json.dumps(answer))
        return
    for warning in answer["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    click.echo("\n".join(answer["changes"]) or "nothing has changed")
