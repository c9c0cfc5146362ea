"""Who is at the other end of the control socket, by what the kernel knows of them (SO_PEERCRED, unix(7))."""

from __future__ import annotations

import pwd
import socket
import struct
from typing import TYPE_CHECKING

from proxy.api.guard import CALLER
from proxy.core.caller import Caller
from proxy.kernel import procfs

if TYPE_CHECKING:
    import trio
    from starlette.types import ASGIApp, Receive, Scope, Send

_LONGEST = 100  # characters of a command line


def credentials(connected: socket.socket | trio.socket.SocketType) -> tuple[int, int]:
    """The process that connected and its user, as this process's namespaces number them; pid 0 is of another one."""
    pid, uid, _gid = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def known_as(pid: int, uid: int) -> Caller:
    """What there is to say of somebody who asks over the socket: the process, while it is there, and its user."""
    command = procfs.command_line(pid)[:_LONGEST] if pid else ""
    place = f"pid {pid} ({command})" if command else f"pid {pid}" if pid else "another pid namespace"
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = f"user {uid}"
    return Caller("socket", place, user)


class Introduced:
    """An application for one connection, whose requests say who is at its other end."""

    def __init__(self, app: ASGIApp, pid: int, uid: int) -> None:
        self._app = app
        self._pid = pid
        self._uid = uid

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "POST":
            scope[CALLER] = known_as(self._pid, self._uid)
        await self._app(scope, receive, send)
