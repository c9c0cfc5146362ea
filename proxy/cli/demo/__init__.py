"""`proxyctl demo`: the whole story on one machine, with nothing installed."""

from __future__ import annotations

import click

from proxy.cli.options import examples


@click.command(
    epilog=examples(
        "proxyctl demo",
        "proxyctl demo --keep           # then try the commands that it prints",
        "proxyctl demo | tee demo.txt   # plain lines, no colours; so does NO_COLOR=1",
    )
)
@click.option("--keep", is_flag=True, help="Leave the proxy running, and print commands to try.")
def command(*, keep: bool) -> int:
    """Show swaps under load, with nothing installed.

    Starts a proxy in a temporary folder, with protocol = "http" and a small built-in web server as v1 and v2, and
    clients that GET and POST, each on one connection that it keeps. Swaps v1 to v2 and back, twice, once with a
    websocket and a slow download under way. Tells what happens as it happens, and sums up. Uses free ports of 127.0.0.1
    only, needs no root, and leaves nothing behind.

    Takes about 15 seconds. Exits with 1 if a request failed, a client had to connect again, or a POST was not processed
    exactly once.
    """
    from proxy.cli.demo.story import tell  # noqa: PLC0415 - trio takes longer to import than a verb's help may

    return tell(keep=keep)
