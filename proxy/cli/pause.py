"""`proxyctl pause`: hold new connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from proxy.cli.client import path_of
from proxy.cli.options import examples, service_option, talks

if TYPE_CHECKING:
    from proxy.cli.client import Client


@click.command(epilog=examples("proxyctl pause --service web", "./migrate-the-database && proxyctl resume"))
@service_option
@talks
def command(client: Client, service: str | None) -> None:
    """Hold new connections: accepted, not refused.

    They wait, however long, until `proxyctl resume`. Open connections go on.
    """
    name = client.service(service)
    client.post(path_of("services", name, "pause"))
    click.echo(f"{name}: paused; new connections wait until `proxyctl resume`")
