"""What this process may do beyond an ordinary user (capabilities(7))."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_EVERY_USER = ["0", "0", "4294967295"]  # uid_map of the first user namespace


class Capability(IntEnum):
    """Those that a proxy has a use for, with the numbers of linux/capability.h."""

    DAC_OVERRIDE = 1
    KILL = 5
    SETGID = 6
    SETUID = 7
    NET_BIND_SERVICE = 10
    NET_ADMIN = 12  # socket marks, sk_lookup, closing others' connections
    NET_RAW = 13
    SYS_PTRACE = 19
    SYS_ADMIN = 21
    SYS_RESOURCE = 24
    PERFMON = 38  # Linux 5.8
    BPF = 39  # Linux 5.8
    CHECKPOINT_RESTORE = 40  # Linux 5.9

    @property
    def title(self) -> str:
        """The name that setcap(8) and systemd take."""
        return f"CAP_{self.name}"


# Before Linux 5.8, CAP_SYS_ADMIN was all there was for these; it still covers them.
_COVERED_BY_SYS_ADMIN = frozenset({Capability.BPF, Capability.PERFMON, Capability.CHECKPOINT_RESTORE})


def effective() -> int:
    """The bits of the capabilities this thread has in effect."""
    return _bits("CapEff")


def bounding() -> int:
    """The bits of those that can ever be gained by it: what a container lacks here, setcap(8) does not give."""
    return _bits("CapBnd")


def has(capability: Capability, bits: int | None = None) -> bool:
    """Whether the capability, or CAP_SYS_ADMIN where that covers it, is among `bits` (without: those in effect)."""
    bits = effective() if bits is None else bits
    covered = capability in _COVERED_BY_SYS_ADMIN and bits & 1 << Capability.SYS_ADMIN
    return bool(bits & 1 << capability or covered)


def missing(wanted: Iterable[Capability], bits: int | None = None) -> list[Capability]:
    """Those that are wanted and not there, in their order."""
    bits = effective() if bits is None else bits
    return [each for each in wanted if not has(each, bits)]


def in_first_user_namespace() -> bool:
    """Whether users here are the machine's own. In any other namespace, capabilities do not reach as far as bpf(2)."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() == _EVERY_USER


def _bits(field: str) -> int:
    with open("/proc/thread-self/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return int(line.split()[1], 16)
    return 0
