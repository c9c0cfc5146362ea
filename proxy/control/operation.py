"""One swap, rollback or restart: its phases as they happen, and its result."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from proxy.control.state import OperationRecord
from proxy.core.caller import NOBODY, Caller
from proxy.errors import ProxyError, StartError
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxy.control.deps import Deps

Json = dict[str, Any]

log = logging.getLogger(__name__)

_REPORTED = ("start", "health", "switch", "drain", "stop")


class Operation:
    """Runs on, whoever waits for it. `result` is set once, at the end; then `wait` returns it."""

    def __init__(
        self,
        number: int,
        kind: str,
        service: str,
        origin: str | None,
        target: str,
        deps: Deps,
        by: Caller = NOBODY,
    ) -> None:
        self.drain_limit = 0.0  # seconds
        self.old: int | None = None  # the generation it leads away from, once it has switched
        self.baked_until: float | None = None  # by time.monotonic()
        self.undone = ""  # why it went back
        self.drained = self.forced = 0  # connections, as far as the drain has got
        self.ready_at: float | None = None  # when the new generation became healthy, by trio.current_time()
        self.overlap: float | None = None  # for how many seconds, at most, both generations accepted (inheriting.py)
        self.on_change: Callable[[], None] = lambda: None
        self.id = number
        self.by = by
        self.kind = kind
        self.service = service
        self.origin = origin
        self.target = target
        self.generation: int | None = None
        self.current = "start"
        self.began = time.time()
        self.scope = trio.CancelScope()  # around what comes before the switch: that can be called off
        self.settled = trio.Event()  # it has switched, or never will
        self.result: Json | None = None
        self._seconds: dict[str, float] = {}
        self._deps = deps
        self._over = trio.Event()

    @classmethod
    def resume(cls, record: OperationRecord, service: str, deps: Deps) -> Operation:
        """Go on with one that another control process began."""
        by = Caller.from_description(record.by)
        operation = cls(record.id, record.kind, service, record.origin, record.target, deps, by)
        operation.drain_limit, operation.old = record.drain_limit, record.old
        operation.baked_until, operation.undone = record.baked_until, record.undone
        operation.drained, operation.forced = record.drained, record.forced
        operation.generation, operation.current, operation.began = record.generation, record.phase, record.began
        operation._seconds = dict(record.seconds)
        return operation

    def record(self) -> OperationRecord:
        """What has to be remembered of it until it ends."""
        return OperationRecord(
            id=self.id,
            kind=self.kind,
            origin=self.origin,
            target=self.target,
            began=self.began,
            phase=self.current,
            seconds=dict(self._seconds),
            generation=self.generation,
            old=self.old,
            drain_limit=self.drain_limit,
            baked_until=self.baked_until,
            undone=self.undone,
            drained=self.drained,
            forced=self.forced,
            by=self.by.describe(),
        )

    def has_switched(self, old: int, bake: float) -> None:
        """New connections go to its generation, and no longer to `old`; 0 is none."""
        self.old = old
        self.baked_until = time.monotonic() + bake if bake else None

    def describe(self) -> Json:
        return {
            "id": self.id,
            "service": self.service,
            "kind": self.kind,
            "from": self.origin,
            "to": self.target,
            "generation": self.generation,
            "phase": self.current,
            "started": round(self.began, 3),
            "by": self.by.describe(),
        }

    async def wait(self) -> Json:
        await self._over.wait()
        assert self.result is not None  # noqa: S101 - set before the event, see _end
        return self.result

    @contextmanager
    def phase(self, name: str, *, already: float = 0.0) -> Iterator[None]:
        """Time a part of the operation and tell of its begin and end, also when it fails.

        It has lasted `already` so many seconds, under another control process.
        """
        self.current = name
        self.on_change()
        began = trio.current_time()
        self.publish("phase", phase=name, state="begin")
        try:
            yield
        finally:
            seconds = already + trio.current_time() - began
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
            self._deps.metrics.phase(self.service, name, seconds)
            self.publish("phase", phase=name, state="end", seconds=round(seconds, 6))

    def publish(self, kind: str, **values: Any) -> None:
        self._deps.bus.publish(kind, operation=self.id, service=self.service, **values)

    def succeed(self, *, drained: int = 0, forced: int = 0, error: str = "") -> None:
        """`error` says what went wrong after the switch, where that could not be undone."""
        self._end("swapped", drained=drained, forced=forced, error=error)

    def fail(self, error: ProxyError) -> None:
        output = error.output if isinstance(error, StartError) else ()
        self._end("failed", error=error.message, hint=error.hint, output=output)

    def roll_back(self, reason: str, *, output: tuple[str, ...] = (), drained: int = 0, forced: int = 0) -> None:
        self._end("rolled_back", error=reason, output=output, drained=drained, forced=forced)

    def _end(
        self,
        result: str,
        *,
        drained: int = 0,
        forced: int = 0,
        error: str = "",
        hint: str = "",
        output: tuple[str, ...] = (),
    ) -> None:
        self.result = {
            "service": self.service,
            "from": self.origin,
            "to": self.target,
            "result": result,
            "phases": {name: round(self._seconds.get(name, 0.0), 6) for name in _REPORTED},
            "drained": drained,
            "forced": forced,
            "overlap": self.overlap,
            "error": error or None,
            "hint": hint,
            "output": list(output),
            "id": self.id,
            "kind": self.kind,
            "generation": self.generation,
            "started": round(self.began, 3),
            "finished": round(time.time(), 3),
            "by": self.by.describe(),
        }
        self._deps.metrics.swapped(self.service, result)
        self._deps.history.add(self.result)
        self._log(self.result)
        self.publish("result", result=self.result)
        self._over.set()

    def _log(self, result: Json) -> None:
        kept = ("to", "result", "drained", "forced", "error", "hint")
        values = {name: result[name] or None for name in kept}
        extra = facts(service=self.service, kind=self.kind, origin=self.origin, **values)
        log.log(logging.INFO if result["result"] == "swapped" else logging.ERROR, "operation ended", extra=extra)
