"""Which listening sockets of a generation the kernel can hand connections to, and why it cannot where it cannot."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from proxy.control.backend import Backend
from proxy.kernel import bpffs, netns, pidfd, procfs, sock_diag
from proxy.kernel.bpf import BpfError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxy.control.external import External
    from proxy.kernel.proc_net import TcpListener

__all__ = ["Backend", "Found", "Sockets", "closing", "explain", "find", "why_not"]


@dataclass(frozen=True)
class Found:
    """A copy of a backend's listening socket. As long as it is open, who connects waits in its queue, even if the
    backend is gone: it is to be closed at once. `families` are those whose connections it takes.
    """

    inode: int
    families: frozenset[int]
    sock: socket.socket


@dataclass(frozen=True)
class Sockets:
    """`why_not` says what was in the way where there are none."""

    sockets: list[Found]
    why_not: str = ""


def why_not(targets: Iterable[Backend | External]) -> str:
    """What can be told from the addresses alone."""
    for each in targets:
        if not isinstance(each, Backend):
            return f"{each.address} is not run by this proxy"
        if each.address.is_unix:
            return "its backend listens on a Unix socket ({socket})"
    return ""


def find(backends: Iterable[Backend]) -> Sockets:
    """Copy every socket on which these backends, or what they started, listen for their connections: first one of each
    backend, then another one of each.

    Reads all of /proc: milliseconds, or more on a crowded machine.
    """
    found: list[list[Found]] = []
    reason = ""
    try:
        for backend in backends:
            found.append([])
            for each in _sockets(backend):
                found[-1].append(each)
            reason = reason or ("" if found[-1] else _explain_none(backend))
    except OSError as error:
        close(chain.from_iterable(found))
        return Sockets([], _explain_copy(error))
    return Sockets([each for turn in zip_longest(*found) for each in turn if each], reason)


def close(found: Iterable[Found]) -> None:
    for each in found:
        each.sock.close()


@contextmanager
def closing(found: Sockets) -> Iterator[Sockets]:
    try:
        yield found
    finally:
        close(found.sockets)


def _sockets(backend: Backend) -> Iterator[Found]:
    """Raises OSError where none can be copied."""
    listeners = {each.inode: each for each in sock_diag.tcp_listeners(backend.address.port)}
    refused = None
    wanted = set(listeners)
    for pid in backend.tree():
        identity = procfs.identify(pid)
        held = procfs.sockets(pid) or {}
        for inode in held.keys() & wanted:
            try:
                sock = _copy(identity, held[inode], inode)
            except PermissionError as error:  # pre-forked processes hold it too: another one may let us
                refused = error
                continue
            if sock:
                wanted.remove(inode)
                yield Found(inode, _families(listeners[inode]), sock)
    if refused and len(wanted) == len(listeners):
        raise refused


def _copy(identity: procfs.ProcessId | None, descriptor: int, inode: int) -> socket.socket | None:
    """None where it is gone by now, or has become another one."""
    copy = pidfd.duplicate(identity, descriptor) if identity else None
    if copy is None:
        return None
    if os.fstat(copy).st_ino == inode:
        return socket.socket(fileno=copy)
    os.close(copy)
    return None


def _families(listener: TcpListener) -> frozenset[int]:
    if ":" not in listener.host or listener.host.startswith("::ffff:"):  # IPv4 in an IPv6 socket, as Java has it
        return frozenset({socket.AF_INET})
    if listener.v6_only or listener.host != "::":
        return frozenset({socket.AF_INET6})
    return frozenset({socket.AF_INET, socket.AF_INET6})


def _explain_none(backend: Backend) -> str:
    ours = netns.of(None)
    if any((found := netns.of(pid)) and found != ours for pid in backend.tree()):
        return "its backend is in another network namespace"
    return f"no process of its backend is seen to listen on port {backend.address.port}"


def _explain_copy(error: OSError) -> str:
    if error.errno in {errno.EPERM, errno.EACCES}:
        return "the backend's socket may not be copied (pidfd_getfd): that needs CAP_SYS_PTRACE here"
    return f"the backend's socket cannot be copied: {error.strerror or error}"


def mounted() -> str:
    """See that there is a bpf file system; returns why there is none, or nothing."""
    if not bpffs.is_mounted():
        try:
            bpffs.mount()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            return f"there is no bpf file system at {bpffs.pin_folder_root.parent}, and it cannot be mounted: {reason}"
    return ""


def explain(error: OSError) -> str:
    """Why the program cannot be put in place."""
    if error.errno in {errno.EPERM, errno.EACCES} and not getattr(error, "log", ""):
        return "this process may not steer: it needs CAP_BPF and CAP_NET_ADMIN, and to write to /sys/fs/bpf"
    if isinstance(error, BpfError):
        return f"the kernel does not take the program: {error}"
    return f"the program cannot be put in place: {error.strerror or error}"
