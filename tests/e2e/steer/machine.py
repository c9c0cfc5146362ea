"""What the machine has to allow for connections to be steered."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
from pathlib import Path

from tests.e2e.steer.kernel import BPFFS
from tests.tools import missing

_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_CAP_NET_ADMIN, _CAP_SYS_ADMIN, _CAP_BPF = 12, 21, 39


def need_steering() -> None:
    """Skip the test, or fail it, where this user may not steer. Mounts bpffs if nobody did, as systemd does at boot."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*(\w+)", status, re.MULTILINE)
    effective = int(found[1], 16) if found else 0
    if not effective >> _CAP_NET_ADMIN & 1 or not (effective >> _CAP_BPF | effective >> _CAP_SYS_ADMIN) & 1:
        missing("steering needs CAP_NET_ADMIN and CAP_BPF: run the tests as root")
    if not _is_bpffs() and not _mount_bpffs():
        missing(f"steering needs bpffs: mount -t bpf bpf {BPFFS}")


def _is_bpffs() -> bool:
    return any(line.split()[1:3] == [str(BPFFS), "bpf"] for line in Path("/proc/mounts").read_text().splitlines())


def _mount_bpffs() -> bool:
    """One on top of the other would hide what is pinned in the first: tests that run side by side wait."""
    lock = os.open(BPFFS.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_bpffs():
            return True
        libc = ctypes.CDLL(None, use_errno=True)
        result: int = libc.mount(b"bpf", bytes(BPFFS), b"bpf", _MS_NOSUID_NODEV_NOEXEC, b"mode=0700")
        return result == 0
    finally:
        os.close(lock)
