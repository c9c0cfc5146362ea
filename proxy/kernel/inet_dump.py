"""Which TCP connections the kernel is to list: a request for them, filtered by the kernel (sock_diag(7)).

All of it is about the network namespace of the calling thread. To ask for marks (SO_MARK, socket(7)), and to see them,
takes CAP_NET_ADMIN in the user namespace that owns the network namespace.
"""

from __future__ import annotations

import socket
import struct
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from proxy.kernel import netlink

if TYPE_CHECKING:
    from collections.abc import Collection

_TCPDIAG_GETSOCK = 18
_BYTECODE = 1  # INET_DIAG_REQ_BYTECODE
_JUMP, _MARK_IS, _PORT_IS = 1, 10, 11  # INET_DIAG_BC_JMP, _MARK_COND, _S_EQ
_REQUEST_ALL = struct.Struct("=BxxB48sI4x")  # inet_diag_req: family, extensions, inet_diag_sockid, states
_REQUEST = struct.Struct("=BBBxI48s")  # inet_diag_req_v2: family, protocol, extensions, states, inet_diag_sockid
_OPERATION = struct.Struct("=BBH")  # inet_diag_bc_op: code, bytes to go on if true, if not
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, an IPv4 address in an IPv6 socket (RFC 4291, section 2.5.5.2)


class State(IntEnum):
    """States of a connection, with the numbers of net/tcp_states.h."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11


def dump(marks: Collection[int] | None, ports: Collection[int], states: int, extensions: int) -> list[netlink.Run]:
    """The inet_diag_msg, with attributes, of IPv4 and IPv6 sockets with these local ports (none: any).

    Of several marks the kernel only compares the bits that they have in common: the answer may hold others. `states`:
    bits, 1 << State; `extensions`: bits, 1 << (attribute - 1). PermissionError for marks without CAP_NET_ADMIN.

    The older of two ways to ask, as it is the one that asks for both families at once. That costs half, and misses
    nothing: a handshake over IPv4 with an IPv6 listener is an IPv4 socket until it is done, and an IPv6 one after that.
    """
    program = _program(marks, ports)
    attribute = netlink.attribute(_BYTECODE, program) if program else b""
    request = _REQUEST_ALL.pack(socket.AF_UNSPEC, extensions, b"", states)
    return netlink.dump_runs(request + attribute, kind=_TCPDIAG_GETSOCK)


def exactly(family: int, sockid: bytes) -> bytes:
    """A request for the one socket that an inet_diag_sockid names, its cookie included."""
    return _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, sockid)


@lru_cache(1024)
def host(family: int, address: bytes) -> str:
    """16 bytes of an inet_diag_sockid as an address; as an IPv4 address if it is one."""
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, address[:4])
    if address.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


def _program(marks: Collection[int] | None, ports: Collection[int]) -> bytes:
    """Code for the kernel's filter, from its end to its start: a jump to the end is a yes, 4 bytes further a no."""
    code = b""
    for port in sorted(ports):
        accept = _OPERATION.pack(_JUMP, 4, 4 + len(code)) if code else b""
        code = _OPERATION.pack(_PORT_IS, 8, 12) + _OPERATION.pack(0, 0, port) + accept + code
    if marks is not None:
        value, mask = _common(marks)
        code = _OPERATION.pack(_MARK_IS, 12, 12 + len(code) + 4) + struct.pack("=II", value, mask) + code
    return code


def _common(marks: Collection[int]) -> tuple[int, int]:
    """The value and the mask of the bits in which all of them agree."""
    every, some = 0xFFFFFFFF, 0
    for mark in marks:
        every, some = every & mark, some | mark
    mask = ~(every ^ some) & 0xFFFFFFFF
    return every & mask, mask
