"""What all relays have in common: their public ports, the processes that count, and when a reload is done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.machine import descriptor_limit, family, free_port, listening, wait_until
from loadtests.model import Running
from proxy.kernel.procfs import socket_inodes

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Mapping

    from loadtests.model import Backends

MANY = 20_000  # connections, in and out, that every relay is configured for, where the limit of descriptors allows it
_SPARE = 400  # descriptors for all else


def names(backends: Backends) -> dict[int, str]:
    """What each port of a backend is called; one name for each port, also where backends share one."""
    return {backends.echo: "echo", backends.bulk: "bulk", backends.web: "web"}


def public_ports(backends: Backends) -> dict[int, int]:
    """A free port for each port of a backend."""
    return {port: free_port() for port in names(backends)}


def most_connections() -> int:
    """Those that a relay can carry here, with two descriptors for each."""
    return min(MANY, (descriptor_limit() - _SPARE) // 2)


def one_program(pid: int, ports: Mapping[int, int], swap: Callable[[], None] | None = None) -> Running:
    """A relay that is one process and its children; where it has children, these hold the connections."""

    def workers() -> frozenset[int]:
        everyone = family(pid)
        return frozenset(everyone - {pid} or everyone)

    return Running(ports, lambda: frozenset(family(pid)), workers, swap)


def reloads(pid: int, how: signal.Signals, ports: Mapping[int, int], log: Path) -> Running:
    """The same, and `how` makes it start new workers with the configuration on disk, and end the old ones."""
    relay = one_program(pid, ports)

    def swap() -> None:
        # A master that has just been told to reload may not listen to signals yet.
        wait_until(lambda: _catches(pid, how), f"process {pid} does not wait for {how.name}", log)
        before = relay.workers()
        done = let_go(before, ports.values())
        os.kill(pid, how)
        wait_until(done, "the old workers still accept", log)
        wait_until(lambda: bool(relay.workers() - before - {pid}), "there is no new worker", log)

    return one_program(pid, ports, swap)


def let_go(old: Iterable[int], ports: Iterable[int]) -> Callable[[], bool]:
    """Whether none of the old processes holds a listener of these ports any more, which it does when this is called.

    They let go when the new ones accept. Their descriptors are what is looked at: to ask the new ones by connecting
    would be part of the load, and /proc/net/tcp is long while there is one.
    """
    inodes, waiting = listening(ports), set(old)

    def is_done() -> bool:
        waiting.intersection_update([pid for pid in waiting if inodes & (socket_inodes(pid) or set())])
        return not waiting

    return is_done


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal: SigCgt in proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)
