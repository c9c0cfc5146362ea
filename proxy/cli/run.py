"""`proxyctl run`: become the proxy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from proxy.cli.options import examples, given_socket, socket_option
from proxy.cli.where import ENVIRONMENT
from proxy.config.paths import find


@click.command(
    epilog=examples(
        "proxyctl run", "proxyctl run /etc/proxyctl/proxy.toml --log-format json", "proxyctl check && proxyctl run"
    )
)
@click.argument("config", required=False, type=click.Path())
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Of the events on stderr.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Events below it are left out.",
)
@socket_option
def command(config: str | None, log_format: str, log_level: str, socket: str | None) -> None:
    """Run the proxy, in the foreground.

    CONFIG is ./proxy.toml, then /etc/proxyctl/proxy.toml, where none is given. --socket (or $PROXYCTL_SOCKET) goes
    before the config's admin.socket.

    SIGTERM and SIGINT drain everything and end it, a second one ends it at once; SIGHUP applies a changed config;
    SIGUSR1 restarts every service's active version.
    """
    path = find(config)
    arguments = [sys.executable, "-P", "-m", "proxy.main", "--config", str(path)]
    arguments += ["--log-format", log_format, "--log-level", log_level]
    if control_socket := given_socket(socket) or os.environ.get(ENVIRONMENT):
        arguments += ["--socket", str(Path(control_socket).absolute())]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, arguments)  # noqa: S606 - the same process goes on as the proxy: signals and pid stay right
