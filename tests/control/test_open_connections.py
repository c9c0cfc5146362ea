"""Adding up workers and kernel: no process and no socket."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from proxy.control.open_connections import OpenConnections

if TYPE_CHECKING:
    from collections.abc import Callable


class Side:
    """Either of them: `count` connections, and who waits is told of each change."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.refreshed = 0
        self.accepted = trio.Event()
        self._changed = trio.Event()

    def leave(self, count: int = 1) -> None:
        self.count -= count
        self._changed.set()
        self._changed = trio.Event()

    async def drained(self, service: str, generation: int, progress: Callable[[int], None]) -> None:
        while self.count:
            progress(self.count)
            await self._changed.wait()
        progress(0)

    async def close(self, service: str, generation: int) -> int:
        closed, self.count = self.count, 0
        return closed

    async def refresh(self) -> None:
        self.refreshed += 1

    async def settled(self, service: str, generation: int) -> None:
        await self.accepted.wait()


class Workers(Side):
    def remaining(self, service: str, generation: int) -> int:
        return self.count


class Kernel(Side):
    async def look(self, service: str, generation: int) -> SimpleNamespace:
        await trio.lowlevel.checkpoint()
        return SimpleNamespace(live=self.count)


def both(workers: int, kernel: int) -> tuple[Any, Any, OpenConnections]:
    sides: tuple[Any, Any] = Workers(workers), Kernel(kernel)
    return *sides, OpenConnections(*sides)


async def test_a_drain_lasts_until_neither_workers_nor_kernel_have_any(nursery) -> None:
    workers, kernel, there = both(2, 3)
    told, over = [], trio.Event()

    async def drain() -> None:
        await there.drained("web", 1, told.append)
        over.set()

    nursery.start_soon(drain)
    await trio.testing.wait_all_tasks_blocked()
    assert set(told) == {5}, "no count on the way has half of it only"
    kernel.leave(3)
    await trio.testing.wait_all_tasks_blocked()
    assert told[-1] == 2
    assert not over.is_set()
    workers.leave()
    workers.leave()
    with trio.fail_after(5):
        await over.wait()
    assert told[-1] == 0
    assert sorted(told, reverse=True) == told


async def test_a_generation_without_any_is_drained_at_once(autojump_clock) -> None:
    *_, there = both(0, 0)
    told: list[int] = []
    await there.drained("web", 1, told.append)
    assert set(told) == {0}


async def test_what_is_left_and_what_is_closed_are_the_sums() -> None:
    *_, there = both(2, 3)
    assert await there.remaining("web", 1) == 5
    assert await there.close("web", 1) == 5
    assert await there.remaining("web", 1) == 0


async def test_both_are_asked_for_new_counts_and_only_the_kernel_has_a_queue(nursery) -> None:
    workers, kernel, there = both(1, 1)
    await there.refresh()
    assert (workers.refreshed, kernel.refreshed) == (1, 1)
    kernel.accepted.set()
    with trio.fail_after(5):
        await there.settled("web", 1)
