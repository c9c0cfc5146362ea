"""Which CPUs processes may run on, for the time of a load: servers on some, and the client on one of its own."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    Pids = Callable[[], Iterable[int]]
    Cpus = AbstractSet[int]


class Division(NamedTuple):
    """Numbers of CPUs."""

    client: frozenset[int]
    servers: frozenset[int]


def division(usable: Iterable[int]) -> Division | None:
    """The last of the CPUs is the client's, all others are the servers'; None if there is only one."""
    *servers, client = sorted(usable)
    return Division(frozenset({client}), frozenset(servers)) if servers else None


def missing() -> str:
    """Why the CPUs that this thread may use cannot be divided; empty if they can."""
    return "" if division(os.sched_getaffinity(0)) else "the client needs a CPU of its own, and there is only one"


@contextmanager
def apart(servers: Pids) -> Iterator[Division]:
    """Until the block ends, these processes have all usable CPUs but one, and this thread and its children that one.

    `servers`: their pids, asked again each time. What they start meanwhile stays with them. Afterwards every thread may
    run where it could before, and what has come meanwhile wherever this thread may. RuntimeError with one CPU alone;
    PermissionError where processes are another user's (sched_setaffinity(2)).
    """
    usable = os.sched_getaffinity(0)
    cpus = division(usable)
    if cpus is None:
        raise RuntimeError(missing())
    before = _allowed(servers)
    try:
        _move(servers, {}, cpus.servers)
        os.sched_setaffinity(0, cpus.client)
        yield cpus
    finally:
        os.sched_setaffinity(0, usable)
        _move(servers, before, usable)


def _allowed(servers: Pids) -> dict[int, Cpus]:
    """Where each thread may run."""
    found: dict[int, Cpus] = {}
    for thread in _threads(servers()):
        with suppress(ProcessLookupError):
            found[thread] = os.sched_getaffinity(thread)
    return found


def _move(servers: Pids, cpus: Mapping[int, Cpus], others: Cpus) -> None:
    """Each thread to its own `cpus`, and those that have none to `others`.

    It starts with the CPUs of the thread that starts it. So it is looked again for any that was started before that one
    was moved, until there is none.
    """
    seen: set[int] = set()
    while new := set(_threads(servers())) - seen:
        for thread in new:
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cpus.get(thread, others))
        seen |= new


def _threads(pids: Iterable[int]) -> Iterator[int]:
    """Of these processes, as far as they are still there (proc(5), /proc/PID/task)."""
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            yield from [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
