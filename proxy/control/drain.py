"""How a generation leaves: its connections may finish until the deadline, it may stay warm a while, it is stopped."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import trio

from proxy.control import inheriting
from proxy.control.generation import DrainProgress, Generation
from proxy.control.state import DepartureRecord
from proxy.logs import facts

if TYPE_CHECKING:
    from proxy.control.deps import Deps
    from proxy.control.operation import Operation

log = logging.getLogger(__name__)

_LAST_ANSWERS = 1.0  # seconds


class Departure:
    """Starts at the switch and runs on its own; several generations of a service may be leaving side by side.

    `limit` is the drain's deadline in seconds from the start. `release` says that nobody will want the generation back
    on a failed bake; until then it is not stopped. `revive` calls the departure off. `over`: an operation need not wait
    any longer, since the generation is stopped or warm; `gone`: the departure has ended.
    """

    def __init__(
        self,
        generation: Generation,
        limit: float,
        operation: Operation | None,
        deps: Deps,
        earlier: DepartureRecord | None = None,
    ) -> None:
        """`earlier`: it was begun by another control process, and goes on to the end that it had."""
        self._earlier = earlier
        self._already = max(0.0, time.time() - earlier.began) if earlier else 0.0  # for how many seconds it has lasted
        self._ends = 0.0  # by time.monotonic()
        self._warm_until: float | None = None
        self.generation = generation
        self._began = 0.0  # in Unix time
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

    def record(self) -> DepartureRecord | None:
        """What has to be remembered of it; None where it has not begun, or is off."""
        drain = self.generation.drain
        if self.revived or (drain is None and self._warm_until is None):
            return None
        return DepartureRecord(
            began=self._began,
            deadline=self._ends,
            initial=self.initial,
            forced=self.forced,
            operation=self._operation.id if self._operation else None,
            warm_until=self._warm_until,
        )

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
        self.left = self.generation.drain.remaining if self.generation.drain else 0
        self._scope.cancel()
        return True

    def hurry(self) -> None:
        """Let the deadline be now."""
        self._limit = 0
        self._earlier = None
        self._deadline.deadline = trio.current_time()
        self.cool()
        self._released.set()

    async def run(self) -> None:
        generation = self.generation
        try:
            with self._scope:
                if self._earlier and self._earlier.warm_until is not None:
                    self._began, self._ends = self._earlier.began, self._earlier.deadline
                    generation.retire()
                    await self._stay_warm(max(0.0, self._earlier.warm_until - time.monotonic()))
                else:
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
            if self._signals_at_start() and not self.generation.was_signalled:
                nursery.start_soon(self._say_goodbye)
            if self._operation:
                with self._operation.phase("drain", already=self._already):
                    await self._drain()
            else:
                await self._drain()
            nursery.cancel_scope.cancel()  # a goodbye that has not been said has nobody to hear it any more
        await self._released.wait()

    def _signals_at_start(self) -> bool:
        """Unless the config says: where no worker is on the way, nobody but the backend can say goodbye; but one that
        has said it is not there any more to be kept warm.
        """
        settings, drain = self.generation.settings, self.generation.settings.drain
        if drain.signal_at:
            return drain.signal_at == "start"
        is_steered = settings.datapath == "steer" and self._deps.steering.has(settings.name, self.generation.id)
        return is_steered and not drain.keep_warm

    async def _say_goodbye(self) -> None:
        """Once every connection that came to it was accepted: those in its queue would be reset with its listener.

        Many programs end at once when they are told to. Where nobody has decided that this one is to be told, those who
        are about to be answered have a moment for it; with the last of them, the drain is over.
        """
        await self._released.wait()
        await self._deps.open.settled(self.generation.settings.name, self.generation.id)
        if not self.generation.settings.drain.signal_at:
            await trio.sleep(_LAST_ANSWERS)
        self.generation.say_goodbye()

    async def _drain(self) -> None:
        generation, service = self.generation, self.generation.settings.name
        generation.retire()
        clock = trio.current_time()
        await self._begin()
        self._deadline.deadline = trio.current_time() + self._ends - time.monotonic()
        with self._deadline:
            if generation.inherits:
                await inheriting.ended(generation, self._progress, self._has_let_go)
            else:
                await self._deps.open.drained(service, generation.id, self._progress)
        if generation.inherits:
            self._has_let_go()
        if self._deadline.cancelled_caught:
            forced = await self._close()
            self.forced += forced
            if generation.drain:
                generation.drain.forced = self.forced
            if forced:
                extra = facts(service=service, version=generation.version.name, connections=forced)
                log.warning("drain deadline reached; closed what was still open", extra=extra)
        self._progress(0)
        if self._operation:
            self._operation.drained, self._operation.forced = self.drained, self.forced
        outcome = "forced" if self.forced else "drained"
        self._deps.metrics.drained(service, outcome, self._already + trio.current_time() - clock, self.forced)

    def _has_let_go(self) -> None:
        """The generation accepts no more on the public listener: until now two of them may have."""
        self.generation.listen_again()
        operation = self._operation
        if operation and operation.overlap is None and operation.ready_at is not None:
            operation.overlap = round(trio.current_time() - operation.ready_at, 6)

    async def _close(self) -> int:
        """Close what is open at the deadline; returns how many connections that are."""
        generation = self.generation
        if not generation.inherits:
            return await self._deps.open.close(generation.settings.name, generation.id)
        generation.kill_at_stop()  # it was asked to end when the other one took over
        return await inheriting.count(generation)

    async def _begin(self) -> None:
        """Set when it began and ends; for one that was begun earlier, as it was then."""
        generation = self.generation
        if generation.inherits:
            remaining = await inheriting.count(generation)
        else:
            remaining = await self._deps.open.remaining(generation.settings.name, generation.id)
        earlier = self._earlier  # None by now if there is no time left (hurry)
        if earlier:
            self._began, self._ends, self.forced = earlier.began, earlier.deadline, earlier.forced
            self.initial = max(earlier.initial, remaining)
        else:
            now, self._began = time.monotonic(), round(time.time(), 3)
            self._ends, self.initial = now + self._limit, remaining
        generation.drain = DrainProgress(round(self._began, 3), self._ends, self.initial, remaining, self.forced)
        if not earlier:
            generation.drain.clock = self._began - now
        if generation.state == "draining":
            generation.changed()
        else:
            generation.set_state("draining")

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
        self._warm_until = time.monotonic() + seconds
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
