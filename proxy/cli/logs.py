"""`proxyctl logs`: what a version's backends print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from proxy.cli.client import path_of
from proxy.cli.options import examples, service_option, talks
from proxy.errors import NotRunningError, UnknownVersionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.cli.client import Client


@click.command(
    epilog=examples("proxyctl logs v2", "proxyctl logs v2 -n 1000 | less", "proxyctl logs v2 --service web -f")
)
@click.argument("version")
@service_option
@click.option("-f", "--follow", is_flag=True, help="Go on as more is printed, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    metavar="N",
    type=click.IntRange(0, 100_000),
    default=100,
    show_default=True,
    help="How many to begin with.",
)
@talks
def command(client: Client, version: str, service: str | None, *, follow: bool, lines: int) -> None:
    """Show what a version's backends print.

    The newest generation's lines, and older ones' where it has not printed that many. Where several replicas or
    generations print, each line begins with GENERATION.REPLICA.
    """
    name = client.service(service)
    path = f"{path_of('services', name, 'versions', version, 'logs')}?lines={lines}"
    printed = False
    for piece in _followed(client, f"{path}&follow=true") if follow else client.pieces(path):
        printed = True
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    if not printed and lines:
        _explain(client, name, version)


def _followed(client: Client, path: str) -> Iterator[bytes]:
    stream, answer = client.open_stream(path)
    with stream, answer:
        stream.settimeout(None)
        yield from answer.pieces()
    raise NotRunningError("the proxy ended the log stream", hint="it has stopped, or this end has not read for long")


def _explain(client: Client, service: str, version: str) -> None:
    known = client.get(path_of("services", service)).get("versions", [version])
    if version not in known:
        raise UnknownVersionError(f"there is no version {version} of {service}", hint=f"there is {', '.join(known)}")
    click.echo(f'{version} has printed nothing (with output = "inherit" it goes to the proxy\'s own stdout)', err=True)
