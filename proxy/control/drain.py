"""How a generation leaves: its connections may finish until the deadline, it may stay warm a while, it is stopped."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import trio

from proxy.control.generation import DrainProgress, Generation
from proxy.logs import facts

if TYPE_CHECKING:
    from proxy.control.deps import Deps
    from proxy.control.operation import Operation

log = logging.getLogger(__name__)


class Departure:
    """Starts at the switch and runs on its own; several generations of a service may be leaving side by side.

    `limit` is the drain's deadline in seconds from the start. `release` says that nobody will want the generation back
    on a failed bake; until then it is not stopped. `revive` calls the departure off. `over`: an operation need not wait
    any longer, since the generation is stopped or warm; `gone`: the departure has ended.
    """

    def __init__(self, generation: Generation, limit: float, operation: Operation | None, deps: Deps) -> None:
        self.generation = generation
        self.initial = 0
        self.forced = 0
        self.left = 0
        self.over = trio.Event()
        self.gone = trio.Event()
        self.revived = False
        self._limit = limit
        self._operation = operation
        self._deps = deps
        self._scope = trio.CancelScope()
        self._deadline = trio.CancelScope()
        self._warmth = trio.CancelScope()
        self._released = trio.Event()

    @property
    def drained(self) -> int:
        """Connections that ended by themselves."""
        return max(0, self.initial - self.forced - self.left)

    def release(self) -> None:
        self._released.set()

    def cool(self) -> None:
        """Nobody will roll back to it any more: it is not kept warm."""
        self._warmth.cancel()

    def revive(self) -> bool:
        """Keep the generation after all, if it can still serve; its connections never noticed."""
        if self.over.is_set() and self.generation.state != "warm":
            return False
        if not self.generation.revivable:
            return False
        self.revived = True
        self.left = self._deps.pool.remaining(self.generation.settings.name, self.generation.id)
        self._scope.cancel()
        return True

    def hurry(self) -> None:
        """Let the deadline be now."""
        self._limit = 0
        self._deadline.deadline = trio.current_time()
        self.cool()
        self._released.set()

    async def run(self) -> None:
        generation = self.generation
        try:
            with self._scope:
                await self._leave()
                if keep_warm := generation.settings.drain.keep_warm:
                    await self._stay_warm(keep_warm)
            if self.revived:
                generation.drain = None
                return
            await self._stop()
        finally:
            self.over.set()
            self.gone.set()

    async def _leave(self) -> None:
        async with trio.open_nursery() as nursery:
            if self.generation.settings.drain.signal_at == "start":
                nursery.start_soon(self._say_goodbye)
            if self._operation:
                with self._operation.phase("drain"):
                    await self._drain()
            else:
                await self._drain()
            await self._released.wait()

    async def _say_goodbye(self) -> None:
        await self._released.wait()
        self.generation.say_goodbye()

    async def _drain(self) -> None:
        generation, pool = self.generation, self._deps.pool
        service = generation.settings.name
        generation.retire()
        began, clock = time.time(), trio.current_time()
        self.initial = pool.remaining(service, generation.id)
        generation.drain = DrainProgress(round(began, 3), round(began + self._limit, 3), self.initial, self.initial)
        generation.set_state("draining")
        self._deadline.deadline = trio.current_time() + self._limit
        with self._deadline:
            await pool.drained(service, generation.id, self._progress)
        if pool.remaining(service, generation.id):
            self.forced = await pool.close(service, generation.id)
            generation.drain.forced = self.forced
            extra = facts(service=service, version=generation.version.name, connections=self.forced)
            log.warning("drain deadline reached; closed what was still open", extra=extra)
        self._progress(0)
        outcome = "forced" if self.forced else "drained"
        self._deps.metrics.drained(service, outcome, trio.current_time() - clock, self.forced)

    def _progress(self, remaining: int) -> None:
        drain = self.generation.drain
        if drain is None:
            return
        drain.remaining = remaining
        self._deps.bus.publish(
            "drain",
            operation=self._operation.id if self._operation else None,
            service=self.generation.settings.name,
            generation=self.generation.id,
            version=self.generation.version.name,
            initial=drain.initial,
            remaining=remaining,
            forced=drain.forced,
            deadline=drain.deadline,
        )

    async def _stay_warm(self, seconds: float) -> None:
        self.generation.drain = None
        self.generation.set_state("warm")
        self.over.set()
        with self._warmth:
            with trio.move_on_after(seconds):
                await self.generation.died_out()

    async def _stop(self) -> None:
        if self._operation and not self.over.is_set():
            with self._operation.phase("stop"):
                await self.generation.stop()
        else:
            await self.generation.stop()
