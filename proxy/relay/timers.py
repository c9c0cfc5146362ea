"""Timers for plain functions: one heap, cancelled in place."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """Something to call at a time. `cancel` makes it a no-op and lets go of what it would have called."""

    __slots__ = ("_timers", "action")

    def __init__(self, timers: Timers, action: Callable[[], object]) -> None:
        self._timers = timers
        self.action: Callable[[], object] | None = action

    def cancel(self) -> None:
        if self.action is not None:
            self.action = None
            self._timers.cancelled()


class Timers:
    """A heap of timers, in seconds of time.monotonic().

    A cancelled timer stays in the heap until its time comes, or until more than half of the heap is cancelled: with one
    timer for each connection, most never fire.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._cancelled = 0

    def __len__(self) -> int:
        """How many are set and not cancelled."""
        return len(self._heap) - self._cancelled

    @property
    def next(self) -> float | None:
        """When the next one is due, which may be one that was cancelled."""
        return self._heap[0][0] if self._heap else None

    def at(self, when: float, action: Callable[[], object]) -> Timer:
        timer = Timer(self, action)
        heapq.heappush(self._heap, (when, next(self._order), timer))
        return timer

    def fire(self, now: float) -> None:
        """Call what is due, in order. What those calls set, even for now, waits for the next time."""
        later = next(self._order)
        while self._heap and self._heap[0][0] <= now and self._heap[0][1] < later:
            timer = heapq.heappop(self._heap)[2]
            action, timer.action = timer.action, None
            if action is None:
                self._cancelled -= 1
            else:
                action()

    def cancelled(self) -> None:
        """Count a timer that was cancelled in place, and drop those when they are most of the heap."""
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].action is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0
