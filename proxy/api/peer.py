"""Who is at the other end of the control socket, by what the kernel knows of them (SO_PEERCRED, unix(7))."""

from __future__ import annotations

import pwd
import socket
import struct
from typing import TYPE_CHECKING

import trio

from proxy.api.guard import CALLER
from proxy.core.caller import Caller
from proxy.kernel import procfs

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LOOK_UP = 2.0  # seconds for who it is
_LONGEST = 100  # characters of a command line
_AT_ONCE = trio.CapacityLimiter(4)  # look-ups; those that hang keep nothing else from having a thread


def credentials(connected: socket.socket | trio.socket.SocketType) -> tuple[int, int]:
    """The process that connected and its user, as this process's namespaces number them; pid 0 is of another one."""
    pid, uid, _gid = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


async def known_as(pid: int, uid: int) -> Caller:
    """What there is to say of somebody who asks over the socket: the process, while it is there, and its user.

    In a thread: names of users may come from a server elsewhere (nsswitch.conf(5)), which may not answer.
    """
    with trio.move_on_after(LOOK_UP):
        return await trio.to_thread.run_sync(_known_as, pid, uid, abandon_on_cancel=True, limiter=_AT_ONCE)
    return Caller("socket", f"pid {pid}", f"user {uid}")


def _known_as(pid: int, uid: int) -> Caller:
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
            scope[CALLER] = await known_as(self._pid, self._uid)
        await self._app(scope, receive, send)
