"""Notice that a TCP connection has ended, whichever process it belonged to (sock_diag(7), its multicast groups)."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from typing import TYPE_CHECKING, Self

import trio

from proxy.kernel import netlink

if TYPE_CHECKING:
    from collections.abc import Collection

_DESTROYED = 1 << 0 | 1 << 2  # the groups SKNLGRP_INET_TCP_DESTROY (1) and SKNLGRP_INET6_TCP_DESTROY (3)
_SO_ATTACH_FILTER = 26
_SOL_NETLINK, _NETLINK_NO_ENOBUFS = 270, 5
_LOCAL_PORT = netlink.HEADER_SIZE + 4  # where it is in the message: nlmsghdr, then inet_diag_msg
_READS = 64

_INSTRUCTION = struct.Struct("=HBBI")  # sock_filter: code, jump if true, if false, constant
_LOAD_HALF, _JUMP_IF_EQUAL, _RETURN = 0x28, 0x15, 0x06  # BPF_LD | BPF_H | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET
_WHOLE, _NOTHING = 0xFFFFFFFF, 0


class Ends:
    """Wakes when TCP connections of this network namespace, with one of these local ports (none: any), have ended.

    It says that there were some, not which: a recount is up to the caller. Use it as a context manager. An end is
    noticed when the kernel lets go of the socket: a connection that was closed here, but whose last bytes the other
    side has yet to acknowledge, ends later for it than for a count of what processes hold. A handshake that comes to
    nothing is no end. So wait with a timeout as well.

    What it costs does not grow with what ends: the kernel drops what other ports had before anybody wakes (socket(7),
    SO_ATTACH_FILTER), and keeps a few messages at most; one says as much as a thousand.

    No capability is needed. Raises OSError where the kernel, or this container, has no sock_diag.
    """

    def __init__(self, ports: Collection[int] = ()) -> None:
        flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, flags, netlink.SOCK_DIAG)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel takes the least there can be
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
            if ports:
                _attach(self._socket, _only(ports))
            self._socket.bind((0, _DESTROYED))
        except BaseException:
            self._socket.close()
            raise

    async def wait(self) -> None:
        """Return when some connection has ended since the last call returned, or since this was made."""
        await trio.lowlevel.wait_readable(self._socket)
        with contextlib.suppress(BlockingIOError):
            for _ in range(_READS):  # what comes meanwhile ends the next wait
                self._socket.recv(1)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _only(ports: Collection[int]) -> bytes:
    """A program for a socket filter (Linux: Documentation/networking/filter.rst): yes to these local ports."""
    code = _INSTRUCTION.pack(_LOAD_HALF, 0, 0, _LOCAL_PORT)
    for port in sorted(ports):
        code += _INSTRUCTION.pack(_JUMP_IF_EQUAL, 0, 1, port) + _INSTRUCTION.pack(_RETURN, 0, 0, _WHOLE)
    return code + _INSTRUCTION.pack(_RETURN, 0, 0, _NOTHING)


def _attach(to: socket.socket, program: bytes) -> None:
    memory = ctypes.create_string_buffer(program, len(program))
    sock_fprog = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(memory))
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, sock_fprog)
