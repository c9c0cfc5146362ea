"""Processes as /proc shows them (proc(5)). A process can vanish between any two reads: that reads as None or empty."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PROC = "/proc"
_LOOKS = 20
_BETWEEN_LOOKS = 0.0005  # seconds
_SETTLED_LOOKS = 4
_SOCKET = re.compile(r"socket:\[(\d+)\]")


class ProcessId(NamedTuple):
    """One process for as long as the machine runs: a pid alone is used again. `start_time`: clock ticks since boot."""

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class Process:
    """What /proc/PID/stat says. `name` is cut at 15 bytes; `state` is R, S, D, T, Z (zombie) …"""

    pid: int
    name: str
    state: str
    ppid: int
    pgid: int
    session: int
    start_time: int
    threads: int = 1

    @property
    def id(self) -> ProcessId:
        return ProcessId(self.pid, self.start_time)

    @property
    def is_dead(self) -> bool:
        """A zombie, or just about to be gone: it runs no code and holds no descriptor.

        The state is the first thread's. Where that one has ended before the others, they still hold everything.
        """
        return self.state in "ZXx" and self.threads <= 1


def process(pid: int) -> Process | None:
    """One process, a zombie included; None when there is none."""
    text = _read(pid, "stat")
    return parse_stat(text.decode(errors="replace")) if text else None


def parse_stat(text: str) -> Process:
    """Parse a line of /proc/PID/stat; the name in it may hold spaces and parentheses."""
    before, _, after = text.rpartition(")")
    pid, _, name = before.partition(" (")
    fields = after.split()  # from field 3, `state`, on
    return Process(
        pid=int(pid),
        name=name,
        state=fields[0],
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        session=int(fields[3]),
        start_time=int(fields[19]),
        threads=int(fields[17]),
    )


def processes() -> dict[int, Process]:
    """Every process that can be seen, by pid."""
    found = (process(int(entry)) for entry in os.listdir(_PROC) if entry.isdigit())
    return {each.pid: each for each in found if each}


def descendants(table: Mapping[int, Process], roots: Iterable[int]) -> set[int]:
    """`roots` that are in the table, their children, and theirs."""
    children: dict[int, list[int]] = {}
    for each in table.values():
        children.setdefault(each.ppid, []).append(each.pid)
    found: set[int] = set()
    waiting = [pid for pid in roots if pid in table]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return found


def ancestors(table: Mapping[int, Process], pid: int) -> set[int]:
    """The process itself, its parent, and so on up to the first that is not in the table."""
    found: set[int] = set()
    while pid in table and pid not in found:
        found.add(pid)
        pid = table[pid].ppid
    return found


def children(pid: int) -> set[int]:
    """The direct children, zombies included; without a scan of all of /proc where the kernel keeps the list."""
    found: set[int] = set()
    try:
        for task in os.listdir(f"{_PROC}/{pid}/task"):
            found.update(int(child) for child in _read(pid, f"task/{task}/children").split())
    except OSError:  # no such process, or a kernel without CONFIG_PROC_CHILDREN
        return {each.pid for each in processes().values() if each.ppid == pid}
    return found


def identify(pid: int) -> ProcessId | None:
    found = process(pid)
    return found.id if found else None


def is_running(identity: ProcessId) -> bool:
    """Whether that very process still runs; a zombie does not."""
    found = process(identity.pid)
    return found is not None and found.id == identity and not found.is_dead


def command_line(pid: int) -> str:
    """The arguments joined by spaces; for a kernel thread or a zombie its name; empty when it is gone."""
    arguments = _read_settled(pid, "cmdline").rstrip(b"\0")
    if arguments:
        return arguments.replace(b"\0", b" ").decode(errors="replace")
    found = process(pid)
    return found.name if found else ""


def environ(pid: int) -> dict[str, str]:
    """The environment it was started with; empty where it may not be read, or the process wrote over it."""
    pairs = (pair.partition(b"=") for pair in _read_settled(pid, "environ").split(b"\0"))
    return {os.fsdecode(name): os.fsdecode(value) for name, equals, value in pairs if equals}


def uid(pid: int) -> int | None:
    """The effective user; None when it is gone. Not the owner of /proc/PID, which is root for what may not be read."""
    for line in _read(pid, "status").splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[2])
    return None


def socket_inodes(pid: int) -> set[int] | None:
    """The inodes of its open sockets; None where its descriptors may not be read (another user, or not dumpable)."""
    found = sockets(pid)
    return None if found is None else set(found)


def sockets(pid: int) -> dict[int, int] | None:
    """Its open sockets: inode to descriptor, one of them where it has several of a socket. None as above."""
    folder = f"{_PROC}/{pid}/fd"
    found = {}
    try:
        for descriptor in os.listdir(folder):
            try:
                match = _SOCKET.fullmatch(os.readlink(f"{folder}/{descriptor}"))
            except FileNotFoundError:  # closed meanwhile
                continue
            if match:
                found[int(match[1])] = int(descriptor)
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return found


def socket_owners(inodes: Iterable[int]) -> dict[int, set[int]]:
    """The pids that hold each of these sockets, as far as this process may look. Reads every descriptor there is."""
    owners: dict[int, set[int]] = {inode: set() for inode in inodes}
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            for inode in owners.keys() & (socket_inodes(int(entry)) or set()):
                owners[inode].add(int(entry))
    return owners


def boot_id() -> str:
    """Different after every boot: start times of two boots cannot be compared."""
    with open(f"{_PROC}/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _read_settled(pid: int, name: str) -> bytes:
    """What it was started with. In the middle of an exec, a process has neither arguments nor environment: then look
    again, for a few milliseconds. Zombies and kernel threads never have any.
    """
    settled = 0
    for _ in range(_LOOKS):
        found = _read(pid, name)
        if found or not _has_memory(pid):
            return found
        # With arguments it is not in an exec, unless that ended between the two looks: so one does not count.
        settled += bool(_read(pid, "cmdline"))
        if settled == _SETTLED_LOOKS:
            return b""
        time.sleep(_BETWEEN_LOOKS)
    return b""


def _has_memory(pid: int) -> bool:
    """Whether it is a process that runs a program: /proc/PID/statm is all zeros for the others."""
    return _read(pid, "statm")[:2] not in {b"", b"0 "}


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"{_PROC}/{pid}/{name}", "rb", buffering=0) as file:
            return file.readall()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
