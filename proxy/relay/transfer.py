"""The system calls that are made for every message: read from a socket, send to a socket, both in one go.

They never wait, and they raise nothing for what a socket has to say: a result below zero is an errno with its sign
changed. An exception for "nothing there yet" costs as much as relaying a message.

`Buffer`, `send` and `handle_of` are those of `_transfer.c` where the installation could compile it, and otherwise the
ones below, which do the same. PROXYCTL_PURE=1 in the environment leaves the compiled ones aside.
"""

from __future__ import annotations

import os
import socket
from errno import EINVAL
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    import _socket

__all__ = ["IS_COMPILED", "MORE", "NOBODY", "SHORT", "Buffer", "Handle", "handle_of", "send"]

# What the functions know a socket by: whatever `handle_of` returns for it.
Handle: TypeAlias = Any

SHORT: Final = -100_000  # no errno
# As plain integers: to combine the flags that they are in `socket` takes longer than the call that they are for.
MORE: Final = int(socket.MSG_MORE)
_VERSION: Final = 2  # of _transfer.c; in a checkout that is worked on, what was compiled may be older
_AT_ONCE: Final = int(socket.MSG_DONTWAIT)


class PlainBuffer:
    """Memory for one read, which is shared by all connections: what is in it is of use until the next read."""

    def __init__(self, size: int) -> None:
        if size <= 0:
            raise ValueError("a buffer needs room")
        self.view = memoryview(bytearray(size))
        self.received = 0  # by the last `forward` that returned SHORT
        self.sent = 0  # of it; below zero an errno

    def receive(self, source: Handle, limit: int) -> int:
        """Read into the buffer; return how many bytes, 0 at the end of the stream, or an errno below zero (recv(2)).

        `limit` is the most to read. Raises ValueError for more than there is room for.
        """
        try:
            size: int = source.recv_into(self.view, limit, _AT_ONCE)
        except OSError as error:
            return -(error.errno or EINVAL)
        return size

    def forward(self, source: Handle, sink: Handle, flags: int, limit: int) -> int:
        """Read, and send what was read at once; return as `receive` does, or SHORT if not all of it was sent.

        MORE in `flags` counts only where less was read than allowed.
        """
        view = self.view
        try:
            size: int = source.recv_into(view, limit, _AT_ONCE)
        except OSError as error:
            return -(error.errno or EINVAL)
        if not size:
            return 0
        if flags and size == limit:
            flags &= ~MORE
        try:
            sent: int = sink.send(view[:size], flags | _AT_ONCE)
        except OSError as error:
            sent = -(error.errno or EINVAL)
        if sent == size:
            return size
        self.received, self.sent = size, sent
        return SHORT

    def take(self, size: int) -> bytes:
        """Return a copy of the first bytes in the buffer. Raises ValueError for more than it has."""
        if not 0 <= size <= len(self.view):
            raise ValueError("there is not so much in the buffer")
        return bytes(self.view[:size])


def plain_send(sink: Handle, data: bytes | memoryview, flags: int) -> int:
    """Send; return how many bytes went, or an errno below zero (send(2))."""
    try:
        sent: int = sink.send(data, flags | _AT_ONCE)
    except OSError as error:
        return -(error.errno or EINVAL)
    return sent


def plain_handle(sock: _socket.socket) -> Handle:
    """Return the handle of a socket. It does not keep the socket open, or keeps it without closing it."""
    return sock


def _closed_socket() -> _socket.socket:
    closed = socket.socket()
    closed.close()
    return closed


IS_COMPILED: bool
NOBODY: Handle  # the handle of what is closed: every call returns -EBADF, whoever has its number now
try:
    if os.environ.get("PROXYCTL_PURE") == "1":
        raise ImportError("not wanted")
    from proxy.relay._transfer import VERSION, Buffer, handle_of, send

    if VERSION != _VERSION:
        raise ImportError("compiled from other sources")
except ImportError:
    Buffer, handle_of, send = PlainBuffer, plain_handle, plain_send  # type: ignore[misc,assignment]  # the same, slower
    IS_COMPILED, NOBODY = False, _closed_socket()
else:
    IS_COMPILED, NOBODY = True, -1
