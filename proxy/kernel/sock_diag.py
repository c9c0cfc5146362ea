"""Which sockets listen, asked from the kernel over netlink (sock_diag(7)).

Only sockets in the state LISTEN are dumped, so that a machine with a million connections answers as fast as an idle
one. Where the kernel has no sock_diag for a family (a sandbox, a module that may not be loaded), /proc/net is read.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING

from proxy.kernel import proc_net
from proxy.kernel.proc_net import TcpListener, UnixListener

if TYPE_CHECKING:
    from collections.abc import Iterator

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_LISTEN = 1 << 10  # TCP_LISTEN; Unix sockets use the same states
_INET_DIAG_SKV6ONLY = 11
_UDIAG_SHOW_NAME, _UDIAG_SHOW_VFS, _UDIAG_SHOW_UID = 0x1, 0x2, 0x40
_UNIX_DIAG_NAME, _UNIX_DIAG_VFS, _UNIX_DIAG_UID = 0, 1, 7

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_INET_REQUEST = struct.Struct("=BBBxI2s46x")  # inet_diag_req_v2: family, protocol, extensions, states, source port …
_INET_MESSAGE = struct.Struct("=B3x2s2x16s28x12xII")  # inet_diag_msg: family, source port, source, uid, inode
_UNIX_REQUEST = struct.Struct("=BBxxIII8x")  # unix_diag_req: family, protocol, states, inode, what to show
_UNIX_MESSAGE = struct.Struct("=4xI8x")  # unix_diag_msg: inode
_VFS = struct.Struct("=II")  # unix_diag_vfs: inode, device

# The kernel, or this container, does not offer the family.
_NOT_OFFERED = (errno.ENOENT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES)


def tcp_listeners(port: int = 0) -> list[TcpListener]:
    """Every listening TCP socket of this network namespace, IPv4 and IPv6; with `port`, those of that port."""
    found: list[TcpListener] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, _LISTEN, port.to_bytes(2, "big"))
        try:
            found += map(_tcp_listener, _dump(request))
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
            found += (each for each in proc_net.tcp_listeners(family) if port in {0, each.port})
    return found


def unix_listeners() -> list[UnixListener]:
    """Every listening Unix socket of this network namespace that has a name in the file system."""
    show = _UDIAG_SHOW_NAME | _UDIAG_SHOW_VFS | _UDIAG_SHOW_UID
    try:
        found = [_unix_listener(message) for message in _dump(_UNIX_REQUEST.pack(socket.AF_UNIX, 0, _LISTEN, 0, show))]
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
        return proc_net.unix_listeners()
    return [each for each in found if each.path]


def _tcp_listener(message: bytes) -> TcpListener:
    family, port, source, uid, inode = _INET_MESSAGE.unpack_from(message)
    attributes = dict(_attributes(message[_INET_MESSAGE.size :]))
    return TcpListener(
        host=socket.inet_ntop(family, source[:4] if family == socket.AF_INET else source),
        port=int.from_bytes(port, "big"),
        inode=inode,
        uid=uid,
        v6_only=attributes.get(_INET_DIAG_SKV6ONLY, b"\0") != b"\0",
    )


def _unix_listener(message: bytes) -> UnixListener:
    (inode,) = _UNIX_MESSAGE.unpack_from(message)
    attributes = dict(_attributes(message[_UNIX_MESSAGE.size :]))
    name = attributes.get(_UNIX_DIAG_NAME, b"")
    vfs = attributes.get(_UNIX_DIAG_VFS)
    uid = attributes.get(_UNIX_DIAG_UID)
    file_inode, device = _VFS.unpack(vfs) if vfs else (0, 0)
    return UnixListener(
        path="" if name.startswith(b"\0") else os.fsdecode(name.rstrip(b"\0")),
        inode=inode,
        uid=int.from_bytes(uid, sys.byteorder) if uid else None,
        # The kernel's own device number has 12 bits of major and 20 of minor (kdev_t.h).
        file=(os.makedev(device >> 20, device & 0xFFFFF), file_inode) if vfs else None,
    )


def _dump(request: bytes) -> Iterator[bytes]:
    """Send one request and yield what it is answered with, once more from the start where the kernel asks for it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        while True:
            header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0)
            netlink.sendto(header + request, (0, 0))
            answers, complete = _receive(netlink)
            if complete:
                yield from answers
                return


def _receive(netlink: socket.socket) -> tuple[list[bytes], bool]:
    """Every message of one dump, and whether the table stayed as it was meanwhile."""
    found: list[bytes] = []
    complete = True
    while True:
        data = netlink.recv(1 << 17)
        while data:
            length, kind, flags, _, _ = _HEADER.unpack_from(data)
            payload, data = data[_HEADER.size : length], data[_aligned(length) :]
            complete = complete and not flags & _NLM_F_DUMP_INTR
            if kind == _NLMSG_DONE:
                return found, complete
            if kind == _NLMSG_ERROR:
                number = -int.from_bytes(payload[:4], sys.byteorder, signed=True)
                raise OSError(number, os.strerror(number))
            found.append(payload)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
