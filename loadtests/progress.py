"""How far a run is, for who waits: on a terminal one line that is drawn over, elsewhere one line for each step."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtests.run import Step

# What a measurement takes beside its load, before any has been timed.
_AROUND = 1.0


class Progress:
    """`seconds`: how long each load takes; the rest of the estimate is learned from the steps that are done."""

    def __init__(
        self, steps: Sequence[Step], seconds: float, stream: IO[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._left = list(steps)
        self._rounds = max((step.round for step in steps), default=0)
        self._guess = seconds + _AROUND
        self._took: dict[tuple[str, bool], list[float]] = defaultdict(list)
        self._stream, self._clock = stream, clock
        self._is_live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._started = self._step_started = clock()

    def begin(self, step: Step) -> None:
        self._step_started = self._clock()
        passed = self._step_started - self._started
        text = (
            f"[{minutes(passed)} of about {minutes(passed + self._expected())}] "
            f"round {step.round} of {self._rounds}, {step.scenario.name}: {step.relay.name}"
        )
        self._print(text, end="" if self._is_live else "\n")

    def end(self, step: Step) -> None:
        self._took[_kind(step)].append(self._clock() - self._step_started)
        self._left.remove(step)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._print(text, end="\n")

    def close(self) -> None:
        """Leave the line to whoever writes next."""
        self._print("", end="")

    def _print(self, text: str, *, end: str) -> None:
        # Carriage return, and "erase to the end of the line" (ECMA-48, EL).
        self._stream.write(f"\r\x1b[K{text}{end}" if self._is_live else f"{text}{end}")
        self._stream.flush()

    def _expected(self) -> float:
        """Seconds that all that is left will take: each as long as others of its kind, where there were any."""
        means = {kind: statistics.fmean(values) for kind, values in self._took.items()}
        return sum(means.get(_kind(step), self._guess) for step in self._left)


def _kind(step: Step) -> tuple[str, bool]:
    """A turn is shorter than what is not split."""
    return step.scenario.name, step.turn > 0


def minutes(seconds: float) -> str:
    """`0:05`, `12:30`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
