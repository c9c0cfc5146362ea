"""`proxyctl upgrade`: not in this release."""

from __future__ import annotations

import click

from proxy.cli.options import examples, socket_option
from proxy.errors import ProxyError


@click.command(epilog=examples("proxyctl upgrade"))
@socket_option
def command(socket: str | None) -> None:  # noqa: ARG001 - so that scripts can be written for it already
    """Replace the proxy's own code.

    Not available in this release; exits with 1.
    """
    raise ProxyError(
        "upgrade is not available in this release",
        hint="`proxyctl stop` and `proxyctl run` replace the proxy, with a gap",
    )
