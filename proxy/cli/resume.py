"""`proxyctl resume`: the end of a pause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from proxy.cli.client import path_of
from proxy.cli.options import examples, service_option, talks

if TYPE_CHECKING:
    from proxy.cli.client import Client


@click.command(epilog=examples("proxyctl resume", "proxyctl resume --service web"))
@service_option
@talks
def command(client: Client, service: str | None) -> None:
    """Let the connections go that a pause holds."""
    name = client.service(service)
    state = client.post(path_of("services", name, "resume"))["state"]
    click.echo(f"{name}: resumed; the service is {state}")
