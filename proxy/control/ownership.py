"""Who answers at an endpoint: the processes that were started, or someone else who was there first."""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING

from proxy.core.address import Address
from proxy.kernel import procfs, sock_diag

if TYPE_CHECKING:
    from collections.abc import Collection

    from proxy.kernel.proc_net import TcpListener, UnixListener

_MAX_COMMAND = 120


def nobody(address: Address) -> bool:
    """Whether no socket of this machine (of this network namespace) listens for connections to the address."""
    return not _listeners(address)


def strangers(address: Address, family: Collection[int]) -> tuple[int | None, ...]:
    """The pids outside the family that could receive connections to the address; None is one that cannot be seen.

    Sockets that share the port by SO_REUSEPORT, and those on wildcard addresses that stand behind the exact one and
    would take over if it closed, all count. Reads the descriptors of the family, and of everyone if that is not enough.
    """
    listeners = _listeners(address)
    own = {pid: procfs.socket_inodes(pid) for pid in family}
    known = set().union(*(inodes for inodes in own.values() if inodes))
    unknown = {each.inode: each.uid for each in listeners if each.inode not in known}
    if not unknown:
        return ()
    owners = procfs.socket_owners(unknown)
    found: set[int | None] = set()
    for inode, pids in owners.items():
        # A member that made itself unreadable (setcap, PR_SET_DUMPABLE) can hold a socket that nobody is seen to hold.
        if not pids and any(own[pid] is None and procfs.uid(pid) == unknown[inode] for pid in family):
            continue
        found |= (pids - set(family)) if pids else {None}
    return tuple(sorted(found, key=lambda pid: pid or 0))


def describe(pid: int | None) -> str:
    if pid is None:
        return "a process that this user may not look into"
    command = procfs.command_line(pid)
    return f"pid {pid} ({command[:_MAX_COMMAND]}{'…' * (len(command) > _MAX_COMMAND)})"


def listens_on(family: Collection[int]) -> tuple[Address, ...]:
    """Every address that processes of the family listen on, TCP before Unix."""
    inodes = set().union(*(procfs.socket_inodes(pid) or set() for pid in family))
    if not inodes:
        return ()
    tcp = sorted((each.port, each.host) for each in sock_diag.tcp_listeners() if each.inode in inodes)
    unix = sorted(each.path for each in sock_diag.unix_listeners() if each.inode in inodes)
    found = [Address(host=host, port=port) for port, host in tcp] + [Address(path=path) for path in unix]
    return tuple(dict.fromkeys(found))


def holders(address: Address) -> set[int]:
    """The pids, as far as they can be seen, of those who listen at the address."""
    listeners = _listeners(address)
    return set().union(*procfs.socket_owners(each.inode for each in listeners).values()) if listeners else set()


def _listeners(address: Address) -> list[TcpListener] | list[UnixListener]:
    if address.is_unix:
        return [each for each in sock_diag.unix_listeners() if _is_at(each, address.path)]
    wanted = ipaddress.ip_address(address.host)
    return [each for each in sock_diag.tcp_listeners(address.port) if _receives(each, wanted)]


def _receives(listener: TcpListener, wanted: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    bound = ipaddress.ip_address(listener.host)
    if isinstance(bound, ipaddress.IPv6Address):
        if bound.is_unspecified:
            return wanted.version == 6 or not listener.v6_only
        bound = bound.ipv4_mapped or bound
    return bound == wanted or (bound.is_unspecified and wanted.version == 4 == bound.version)


def _is_at(listener: UnixListener, path: str) -> bool:
    if listener.path == path:
        return True
    try:  # it may have been bound under a relative or another name, and renamed
        found = os.stat(path)  # the name of a socket, as the caller has it
    except OSError:
        return False
    return listener.file == (found.st_dev, found.st_ino)
