"""Requests to the kernel's socket tables over netlink, and the answers (netlink(7), sock_diag(7))."""

from __future__ import annotations

import os
import socket
import struct
import sys
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
SOCK_DIAG_BY_FAMILY = 20
HEADER_SIZE = 16
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_RECEIVE = 1 << 17  # bytes; the kernel makes packets of 32 KiB at most
_AT_ONCE = 64  # requests: their answers fit into a receive buffer of the default size

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type


class Run(NamedTuple):
    """Messages of one length, one behind the other: `data` holds them all, `stride` bytes from each to the next."""

    kind: int
    flags: int
    length: int
    stride: int
    data: memoryview

    def split(self) -> Iterator[Run]:
        """Each message on its own."""
        return (self._replace(data=self.data[at : at + self.stride]) for at in range(0, len(self.data), self.stride))


def dump(request: bytes) -> Iterator[bytes]:
    """Send one request and yield what it is answered with, without the headers."""
    for run in dump_runs(request):
        for each in run.split():
            yield bytes(each.data[HEADER_SIZE : run.length])


def dump_runs(request: bytes, *, kind: int = SOCK_DIAG_BY_FAMILY) -> list[Run]:
    """Send one request and return what it is answered with, in a shape that can be unpacked without a loop in Python.

    Asks once more where the kernel says that the table changed meanwhile. Raises OSError where the kernel says no.
    """
    with _socket() as netlink:
        while True:
            netlink.sendto(_message(kind, _NLM_F_DUMP, request), (0, 0))
            runs = list(_answers(netlink))
            if not any(run.flags & _NLM_F_DUMP_INTR for run in runs):
                return [run for run in runs if run.kind != _NLMSG_DONE]


def ask_each(kind: int, requests: Iterable[bytes]) -> list[int]:
    """Send requests of type `kind`; return an error number for each in their order, 0 where it was done."""
    messages = [_message(kind, _NLM_F_ACK, request) for request in requests]
    found: list[int] = []
    with _socket() as netlink:
        netlink.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # the answers do not repeat the request
        for start in range(0, len(messages), _AT_ONCE):
            some = messages[start : start + _AT_ONCE]
            netlink.sendto(b"".join(some), (0, 0))
            while len(found) < start + len(some):
                for run in runs(netlink.recv(_RECEIVE)):
                    found += (_error(each.data) for each in run.split())
    return found


def runs(packet: bytes) -> Iterator[Run]:
    """The messages of a packet. Most dumps answer with messages of one length, a few hundred in a packet."""
    rest = memoryview(packet)
    while rest:
        length, kind, flags, _, _ = _HEADER.unpack_from(rest)
        stride = min(aligned(length), len(rest))
        heads = struct.iter_unpack(f"=IHH{stride - 8}x", rest[: len(rest) // stride * stride])
        count = sum(1 for _ in takewhile((length, kind, flags).__eq__, heads))
        yield Run(kind, flags, length, stride, rest[: count * stride])
        rest = rest[count * stride :]


def attributes(data: bytes | memoryview, at: int = 0) -> Iterator[tuple[int, int, int]]:
    """The type of each attribute from `at` on, and where its value starts and ends in `data`."""
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind, at + _ATTRIBUTE.size, at + length
        at += max(aligned(length), _ATTRIBUTE.size)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute of a request."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(aligned(length) - length)


def aligned(length: int) -> int:
    return (length + 3) & ~3


def _socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG)


def _message(kind: int, flags: int, request: bytes) -> bytes:
    padding = bytes(aligned(len(request)) - len(request))
    return _HEADER.pack(HEADER_SIZE + len(request), kind, _NLM_F_REQUEST | flags, 0, 0) + request + padding


def _answers(netlink: socket.socket) -> Iterator[Run]:
    """Everything up to and with the message that ends the dump."""
    while True:
        for run in runs(netlink.recv(_RECEIVE)):
            if run.kind == _NLMSG_ERROR:
                number = _error(run.data)
                raise OSError(number, os.strerror(number))
            yield run
            if run.kind == _NLMSG_DONE:
                return


def _error(message: memoryview) -> int:
    """What an nlmsgerr says: an error number, 0 for none."""
    return -int.from_bytes(message[HEADER_SIZE : HEADER_SIZE + 4], sys.byteorder, signed=True)
