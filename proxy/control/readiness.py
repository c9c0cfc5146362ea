"""What a backend says of itself: the other end of its $NOTIFY_SOCKET, as sd_notify(3) has it.

A socket of its own for each backend, so that who speaks is known; and what counts is only what a process of that
backend says. READY=1 is all that is waited for. After it the kernel throws away what else is said: a backend that goes
on reporting its STATUS would have to wait as soon as the queue of a socket that nobody reads is full.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from proxy.kernel import socket_filter

if TYPE_CHECKING:
    from pathlib import Path

_MAX_MESSAGE = 4096  # bytes; what is longer is not read, as systemd has it
_MAX_STATUS = 200  # characters
_CREDENTIALS = struct.Struct("=iII")  # ucred: pid, uid, gid
_DESCRIPTOR = struct.Struct("=i")
# A message can bring descriptors (FDSTORE=1, BARRIER=1); the kernel closes those that there is no room for.
_ANCILLARY = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(16 * _DESCRIPTOR.size)

IsMember = Callable[[int], bool]
"""Whether the process with this pid is one of the backend's. May take milliseconds; is called in a thread."""


class Readiness:
    """Whether a backend has said READY=1. `close` it in the end."""

    def __init__(
        self, path: Path, sock: socket.socket | None, remove: Callable[[], None], *, is_ready: bool = False
    ) -> None:
        """`path` is where the backend reaches it, `remove` removes that. `status`: what it said last as STATUS;
        `stranger`: the pid of who else said READY=1, 0 where nobody has.
        """
        self.path = path
        self.is_ready = is_ready
        self.status = ""
        self.stranger = 0
        self._socket = sock
        self._remove = remove
        self._turn = trio.Lock()

    async def wait(self, is_member: IsMember) -> None:
        """Return when a process of the backend has said READY=1; any number of tasks may wait. Closed, never."""
        while not self.is_ready:
            async with self._turn:
                if self.is_ready:
                    return
                if self._socket is None:
                    await trio.sleep_forever()
                with contextlib.suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_readable(self._socket)
                    await self._hear(self._socket, is_member)

    def settle(self) -> None:
        """It is known to be ready."""
        self.is_ready = True
        if self._socket is not None:
            trio.lowlevel.notify_closing(self._socket)  # those who wait look again, and find that they need not
        self.hush()

    def hush(self) -> None:
        """Nobody waits for its word any more: the kernel throws away what it says."""
        if self._socket is None:
            return
        try:
            socket_filter.refuse_all(self._socket)
        except OSError:  # a sandbox without it: then it is told that nobody listens
            self._close_socket()
            return
        with contextlib.suppress(OSError):  # until the queue is empty
            while True:
                _receive(self._socket)

    def close(self) -> None:
        """Remove the socket."""
        self._close_socket()
        self._remove()

    async def _hear(self, sock: socket.socket, is_member: IsMember) -> None:
        """Take one message."""
        try:
            message, pid = _receive(sock)
        except OSError:  # nothing there after all
            return
        said = parse(message)
        is_said = said.get("READY") == "1"
        if not (is_said or "STATUS" in said):
            return
        with trio.CancelScope(shield=True):  # what was taken is not to be lost
            is_ours = await trio.to_thread.run_sync(is_member, pid)
        if not is_ours:
            self.stranger = pid if is_said else self.stranger
            return
        self.status = said.get("STATUS", self.status)
        if is_said:
            self.settle()

    def _close_socket(self) -> None:
        if self._socket is not None:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            self._socket = None


def parse(message: bytes) -> dict[str, str]:
    """The assignments of a message, one to a line; of a name that is there twice, the last. Empty if it is no text."""
    if b"\0" in message:
        return {}
    found = {}
    for line in message.decode(errors="replace").split("\n"):
        name, equals, value = line.partition("=")
        if equals:
            found[name] = "".join(char if char.isprintable() else " " for char in value).strip()[:_MAX_STATUS]
    return found


def _receive(sock: socket.socket) -> tuple[bytes, int]:
    """One message and the pid of its sender, 0 where that is not known. Raises BlockingIOError when there is none."""
    message, ancillary, flags, _ = sock.recvmsg(_MAX_MESSAGE, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    pid = 0
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            for at in range(0, len(data) - _DESCRIPTOR.size + 1, _DESCRIPTOR.size):
                os.close(*_DESCRIPTOR.unpack_from(data, at))
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(data) >= _CREDENTIALS.size:
            pid, _, _ = _CREDENTIALS.unpack_from(data)
    return (b"" if flags & socket.MSG_TRUNC else message), pid
