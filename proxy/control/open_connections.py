"""What a generation still has open, whichever way it came: through the workers, or past them (steering.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.control.steering import Steering
    from proxy.control.workers import WorkerPool


class OpenConnections:
    """Workers and kernel as one."""

    def __init__(self, pool: WorkerPool, steering: Steering) -> None:
        self._pool = pool
        self._steering = steering

    async def remaining(self, service: str, generation: int) -> int:
        steered = await self._steering.look(service, generation)
        return self._pool.remaining(service, generation) + steered.live

    async def drained(self, service: str, generation: int, progress: Callable[[int], None]) -> None:
        """Wait until nothing is open any more; `progress` is told each change on the way."""
        left = {"workers": 0, "kernel": 0}

        def heard(where: str, count: int) -> None:
            left[where] = count
            progress(sum(left.values()))

        left["kernel"] = (await self._steering.look(service, generation)).live
        left["workers"] = self._pool.remaining(service, generation)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pool.drained, service, generation, lambda count: heard("workers", count))
            nursery.start_soon(self._steering.drained, service, generation, lambda count: heard("kernel", count))

    async def settled(self, service: str, generation: int) -> None:
        """Wait until nobody waits any more to be accepted by the generation itself."""
        await self._steering.settled(service, generation)

    async def close(self, service: str, generation: int) -> int:
        """Close what is still open; returns how many connections that were."""
        forced = await self._pool.close(service, generation)
        return forced + await self._steering.close(service, generation)

    async def refresh(self) -> None:
        """Bring every count up to date."""
        await self._pool.refresh()
        await self._steering.refresh()
