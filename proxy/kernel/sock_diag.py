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

from proxy.kernel import netlink, proc_net
from proxy.kernel.proc_net import TcpListener, UnixListener

_LISTEN = 1 << 10  # TCP_LISTEN; Unix sockets use the same states
_INET_DIAG_SKV6ONLY = 11
_UDIAG_SHOW_NAME, _UDIAG_SHOW_VFS, _UDIAG_SHOW_UID = 0x1, 0x2, 0x40
_UNIX_DIAG_NAME, _UNIX_DIAG_VFS, _UNIX_DIAG_UID = 0, 1, 7

_INET_REQUEST = struct.Struct("=BBBxI2s46x")  # inet_diag_req_v2: family, protocol, extensions, states, source port …
# inet_diag_msg: family, source port, source, length and limit of the accept queue, uid, inode
_INET_MESSAGE = struct.Struct("=B3x2s2x16s28x4xIIII")
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
            found += map(_tcp_listener, netlink.dump(request))
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
            found += (each for each in proc_net.tcp_listeners(family) if port in {0, each.port})
    return found


def unix_listeners() -> list[UnixListener]:
    """Every listening Unix socket of this network namespace that has a name in the file system."""
    show = _UDIAG_SHOW_NAME | _UDIAG_SHOW_VFS | _UDIAG_SHOW_UID
    try:
        found = [
            _unix_listener(message) for message in netlink.dump(_UNIX_REQUEST.pack(socket.AF_UNIX, 0, _LISTEN, 0, show))
        ]
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
        return proc_net.unix_listeners()
    return [each for each in found if each.path]


def _tcp_listener(message: bytes) -> TcpListener:
    family, port, source, waiting, backlog, uid, inode = _INET_MESSAGE.unpack_from(message)
    attributes = _attributes(message[_INET_MESSAGE.size :])
    return TcpListener(
        host=socket.inet_ntop(family, source[:4] if family == socket.AF_INET else source),
        port=int.from_bytes(port, "big"),
        inode=inode,
        uid=uid,
        v6_only=attributes.get(_INET_DIAG_SKV6ONLY, b"\0") != b"\0",
        waiting=waiting,
        backlog=backlog,
    )


def _unix_listener(message: bytes) -> UnixListener:
    (inode,) = _UNIX_MESSAGE.unpack_from(message)
    attributes = _attributes(message[_UNIX_MESSAGE.size :])
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


def _attributes(data: bytes) -> dict[int, bytes]:
    return {kind: data[start:end] for kind, start, end in netlink.attributes(data)}
