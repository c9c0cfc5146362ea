"""Listening sockets as /proc/net lists them (proc_net(5)): there everywhere, but slow on busy machines."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path

_NET = Path("/proc/net")
_LISTEN = "0A"  # TCP_LISTEN
_ACCEPTS_CONNECTIONS = 0x10000  # __SO_ACCEPTCON, the flag of a Unix socket that listens


@dataclass(frozen=True, slots=True)
class TcpListener:
    """`inode` leads to the processes that hold it; `v6_only` is False for IPv4, and where it is not known.

    `waiting`: connections in the accept queue, at most `backlog` + 1 of them; a `backlog` of 0 may be one that is not
    known. They change all the time, and so are no part of what makes two of these equal.
    """

    host: str
    port: int
    inode: int
    uid: int
    v6_only: bool = False
    waiting: int = field(default=0, compare=False)
    backlog: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class UnixListener:
    """`path` is the name it was bound to (maybe relative, maybe renamed since); `file` is (device, inode) of the
    file it was bound to, None where that is not known, and so is `uid`.
    """

    path: str
    inode: int
    uid: int | None = None
    file: tuple[int, int] | None = None


def tcp_listeners(family: socket.AddressFamily) -> list[TcpListener]:
    try:
        lines = (_NET / ("tcp" if family == socket.AF_INET else "tcp6")).read_text().splitlines()[1:]
    except FileNotFoundError:  # no IPv6
        return []
    return [_tcp(fields, family) for fields in map(str.split, lines) if fields[3] == _LISTEN]


def unix_listeners() -> list[UnixListener]:
    """Those with a name in the file system."""
    found = []
    for line in (_NET / "unix").read_bytes().splitlines()[1:]:
        fields = line.split(maxsplit=7)  # address, references, protocol, flags, type, state, inode, path
        if len(fields) == 8 and int(fields[3], 16) & _ACCEPTS_CONNECTIONS and not fields[7].startswith(b"@"):
            found.append(UnixListener(path=os.fsdecode(fields[7]), inode=int(fields[6])))
    return found


def _tcp(fields: list[str], family: socket.AddressFamily) -> TcpListener:
    host, _, port = fields[1].partition(":")
    # Each 32-bit word is printed as a number, in the byte order of this machine.
    packed = b"".join(struct.pack("=I", int(host[at : at + 8], 16)) for at in range(0, len(host), 8))
    return TcpListener(
        host=socket.inet_ntop(family, packed),
        port=int(port, 16),
        inode=int(fields[9]),
        uid=int(fields[7]),
        waiting=int(fields[4].partition(":")[2], 16),  # a listener's receive queue is its accept queue
    )
