"""What processes hold of the public sockets: the listeners, and the connections that were accepted from them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.kernel import inet_diag, procfs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from proxy.core.address import Address

_NET = Path("/proc/net")
_LIVE = {"01", "04", "05", "08"}  # ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, as in net/tcp_states.h
_CONNECTED = "03"  # SS_CONNECTED
_NOT_OFFERED = (errno.ENOENT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES)


def holds_any(pids: Iterable[int], inodes: Collection[int]) -> bool:
    """Whether one of the processes holds one of these sockets. One that cannot be looked into may."""
    for pid in pids:
        found = procfs.socket_inodes(pid)
        if found is None or not found.isdisjoint(inodes):
            return True
    return False


def connections(pids: Iterable[int], addresses: Collection[Address]) -> int:
    """How many connections the processes hold that came in at these addresses; those in an accept queue nobody holds.

    Of TCP only the port is compared: what one of them connects to elsewhere has another port on this side.
    """
    held = set().union(*(procfs.socket_inodes(pid) or () for pid in pids))
    if not held:
        return 0
    ports = {address.port for address in addresses if not address.is_unix}
    paths = {address.path for address in addresses if address.is_unix}
    return len(held & ((_tcp(ports) if ports else set()) | (_unix(paths) if paths else set())))


def _tcp(ports: Collection[int]) -> set[int]:
    """The inodes of live connections with one of these ports on this side."""
    try:
        return {each.inode for each in inet_diag.connections(ports=ports) if each.is_live}
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
        return _listed("tcp", ports) | _listed("tcp6", ports)


def _listed(table: str, ports: Collection[int]) -> set[int]:
    """The same of /proc/net (proc_net(5)), where the kernel has no sock_diag."""
    try:
        rows = map(str.split, (_NET / table).read_text().splitlines()[1:])
    except FileNotFoundError:  # no IPv6
        return set()
    return {int(row[9]) for row in rows if row[3] in _LIVE and int(row[1].rpartition(":")[2], 16) in ports}


def _unix(paths: Collection[str]) -> set[int]:
    """The inodes of connections to these paths: what was accepted has the name of the listener (unix(7))."""
    rows = (line.split(maxsplit=7) for line in (_NET / "unix").read_bytes().splitlines()[1:])
    return {
        int(row[6]) for row in rows if len(row) == 8 and row[5].decode() == _CONNECTED and os.fsdecode(row[7]) in paths
    }
