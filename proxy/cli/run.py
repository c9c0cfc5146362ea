"""`proxyctl run`: become the proxy."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

import click

from proxy.cli.options import examples, given_socket, socket_option
from proxy.cli.where import ENVIRONMENT
from proxy.config.paths import find
from proxy.errors import UsageError

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_STANDARD = ("/dev/stdout", "/dev/stderr")  # open already, and where they are sockets, no path leads to them


@click.command(
    epilog=examples(
        "proxyctl run",
        "proxyctl run /etc/proxyctl/proxy.toml --log-format json --access-log /var/log/proxyctl/access.log",
        "proxyctl check && proxyctl run",
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
@click.option("--access-log", metavar="PATH", help="Append a line of JSON there for each HTTP request.")
@socket_option
def command(config: str | None, log_format: str, log_level: str, access_log: str | None, socket: str | None) -> None:
    """Run the proxy, in the foreground.

    CONFIG is ./proxy.toml, then /etc/proxyctl/proxy.toml, where none is given. --socket (or $PROXYCTL_SOCKET) goes
    before the config's admin.socket.

    The access log has the requests of services with protocol "http". /dev/stdout works; a file may be moved away at any
    time (logrotate), and a new one is begun.

    SIGTERM and SIGINT drain everything and end it, a second one ends it at once; SIGHUP applies a changed config;
    SIGUSR1 restarts every service's active version, SIGUSR2 upgrades.
    """
    path = find(config)
    arguments = [sys.executable, "-P", "-m", "proxy.main", "--config", str(path)]
    arguments += ["--log-format", log_format, "--log-level", log_level]
    if control_socket := given_socket(socket) or os.environ.get(ENVIRONMENT):
        arguments += ["--socket", str(Path(control_socket).absolute())]
    if access_log is not None:
        arguments += ["--access-log", str(_access_log(access_log))]
    sys.stdout.flush()
    sys.stderr.flush()
    # That lasts over the exec, until there is a handler: as process 1 of a container, it would lose them till then
    # (pid_namespaces(7)).
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        os.execv(sys.executable, arguments)  # noqa: S606 - the same process goes on as the proxy: signals and pid stay right
    finally:  # it did not come to that
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _access_log(given: str) -> Path:
    """The absolute path. Raises UsageError if nothing can be appended there.

    A file that is not there yet is not made: another error may still keep the proxy from starting.
    """
    path = Path(given).absolute()
    if str(path) in _STANDARD:
        return path
    try:
        if path.is_fifo():  # opening and closing it would be the end for whoever reads it
            _demand(path, os.R_OK | os.W_OK)
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC))
    except FileNotFoundError:
        folder = path.parent
        if not folder.is_dir():
            raise UsageError(f"--access-log: there is no folder {folder}", hint=f"mkdir -p {folder}") from None
        try:
            _demand(folder, os.W_OK | os.X_OK)
        except OSError as error:
            raise _refused(path, error) from error
    except OSError as error:
        raise _refused(path, error) from error
    return path


def _demand(path: Path, mode: int) -> None:
    if not os.access(path, mode):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _refused(path: Path, error: OSError) -> UsageError:
    reason = (error.strerror or str(error)).lower()
    hint = "name a file that this user may write to, or /dev/stdout"
    return UsageError(f"--access-log: {path} cannot be written to: {reason}", hint=hint)
