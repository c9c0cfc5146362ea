"""Network namespaces and BPF file systems of a test's own, so that nothing of the machine is touched."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.kernel.bpf import BpfError, Map, MapType
from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMESPACE = "/proc/thread-self/ns/net"
_CLONE_NEWNET = 0x40000000
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same on every architecture (Linux 5.2)
_CMD_CREATE, _CLOEXEC = 6, 1

_libc = ctypes.CDLL(None, use_errno=True)


def need_bpf() -> None:
    """Skip the test where this process may not use BPF, or the kernel has none."""
    try:
        Map.create(MapType.SOCKMAP, 4, 8, 1).close()
    except BpfError as error:
        missing(f"needs root and a kernel with BPF: {error}")


@contextlib.contextmanager
def network_namespace() -> Iterator[None]:
    """Put this thread into a new network namespace with nothing but `lo`; what it starts meanwhile lives there too."""
    ip = need("ip", package="iproute2")
    before = os.open(NAMESPACE, os.O_RDONLY)
    try:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            missing(f"needs root, for a network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run([ip, "link", "set", "lo", "up"], check=True)
            yield
        finally:
            _check(_libc.setns(before, _CLONE_NEWNET))
    finally:
        os.close(before)


@contextlib.contextmanager
def bpf_file_system() -> Iterator[Path]:
    """A BPF file system that is mounted nowhere; its path also holds in children that inherit the descriptor."""
    need_bpf()
    context = _check(_libc.syscall(_FSOPEN, b"bpf", _CLOEXEC))
    try:
        _check(_libc.syscall(_FSCONFIG, context, _CMD_CREATE, None, None, 0))
        mount = _check(_libc.syscall(_FSMOUNT, context, 0, 0))
    finally:
        os.close(context)
    try:
        yield Path(f"/proc/self/fd/{mount}")
    finally:
        os.close(mount)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
