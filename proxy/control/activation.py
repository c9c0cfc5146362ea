"""Listeners that the service manager opened for us: socket activation, sd_listen_fds(3)."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from proxy.control import sockopts
from proxy.errors import ProxyError
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import MutableMapping

FIRST = 3  # SD_LISTEN_FDS_START
_FDS, _PID, _NAMES = "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"
_VARIABLES = (_FDS, _PID, _NAMES, "LISTEN_PIDFDID")

log = logging.getLogger(__name__)


class ActivationError(ProxyError):
    code = "activation"


def take(environ: MutableMapping[str, str]) -> list[tuple[str, socket.socket]]:
    """Return name and socket of each, and take the variables out of `environ`, so that no child believes them its own.

    The name is what the socket unit has as FileDescriptorName=, "" where it has none. The sockets do not block and are
    closed on exec. Raises ActivationError for a descriptor that is not a listening stream socket; then none is open.
    """
    found = {name: environ.pop(name) for name in _VARIABLES if name in environ}
    count = found.get(_FDS)
    if count is None:
        return []
    if found.get(_PID) != str(os.getpid()):
        extra = facts(meant=found.get(_PID, "nobody"), pid=os.getpid())
        log.warning("listeners of the service manager are not taken: they are for another process", extra=extra)
        return []
    if not (count.isascii() and count.isdigit()):
        raise ActivationError(
            f'LISTEN_FDS="{count}" is not a number', hint="the service manager sets it: sd_listen_fds(3)"
        )
    names = found[_NAMES].split(":") if _NAMES in found else [""] * int(count)
    if len(names) != int(count):
        raise ActivationError(
            f'LISTEN_FDNAMES="{found[_NAMES]}" does not have {count} names',
            hint="LISTEN_FDS says how many; see sd_listen_fds(3)",
        )
    with ExitStack() as stack:
        taken = [(_plain(name), stack.enter_context(_listener(FIRST + i, name))) for i, name in enumerate(names)]
        stack.pop_all()
    return taken


def _plain(name: str) -> str:
    """A unit that names nothing gives "unknown", or the name of the unit itself (systemd.socket(5))."""
    return "" if name == "unknown" or name.endswith(".socket") else name


def _listener(descriptor: int, name: str) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise _refused(descriptor, name, (error.strerror or str(error)).lower()) from error
    try:
        if sock.type != socket.SOCK_STREAM or sock.family not in {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}:
            raise _refused(descriptor, name, f"it is {sock.type.name} of {sock.family.name}")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise _refused(descriptor, name, "nobody listens on it; is it a connection?")
        sock.setblocking(False)
        sock.set_inheritable(False)
        sockopts.prepare(sock)
        sock.listen(sockopts.BACKLOG)  # on top of what the unit has as Backlog=
    except BaseException:
        sock.close()
        raise
    return sock


def _refused(descriptor: int, name: str, reason: str) -> ActivationError:
    return ActivationError(
        f'descriptor {descriptor} ("{name}") of the service manager is not a listening stream socket: {reason}',
        hint="the socket unit of the proxy has ListenStream= only, and Accept=no",
    )
