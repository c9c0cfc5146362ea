"""Progress on a terminal: phases with times, a bar of draining connections, the deadline counting down."""

from __future__ import annotations

import time
from functools import partial
from typing import IO, TYPE_CHECKING, Self

from proxy.cli import phases
from proxy.cli.canvas import Canvas
from proxy.cli.cells import pad, span, wrapped
from proxy.cli.progress import Progress
from proxy.cli.table import Cell, line
from proxy.cli.terminal import paint, took

if TYPE_CHECKING:
    from types import TracebackType

    from proxy.cli.progress import Drain, Phase, Story

TICK = 0.1  # seconds between two drawings
_ROOM = 36  # columns beside a phase that are enough for a drain


class Screen:
    """Draws over its own lines on `stream`; the last drawing stays."""

    tick = TICK

    def __init__(self, story: Story, stream: IO[str]) -> None:
        self._story = story
        self._stream = stream
        self._canvas = Canvas(stream)
        self._said: list[str] = []

    def __enter__(self) -> Self:
        self.update()
        return self

    def update(self) -> None:
        self._canvas.draw(self._picture)

    def say(self, text: str) -> None:
        """Something that stays, above the phases."""
        self._said.append(text)
        self.update()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.update()
        self._canvas.close()

    def _picture(self, columns: int) -> list[str]:
        said = [text for each in self._said for text in wrapped(each, columns)]
        return said + draw(self._story, time.time(), width=columns, stream=self._stream)


def draw(story: Story, now: float, *, width: int, stream: IO[str]) -> list[str]:
    """The whole picture at the Unix time `now`."""
    lines = [paint(text, "bold", stream) for text in wrapped(story.headline(), width)]
    shown = [name for name in story.names if name in story.phases or name not in story.seldom]
    times = {name: took(phase.lasted(now)) for name, phase in story.phases.items()}
    names_wide, times_wide = max(map(len, shown)), max(map(len, times.values()), default=0)
    room = width - names_wide - times_wide - 4
    for name in shown:
        phase, beside, below = story.phases.get(name), Cell(""), ""
        if drain := _drain_under_way(name, story):
            told = partial(phases.drain, drain.remaining, drain.initial, drain.deadline - now, stream=stream)
            if room >= _ROOM:
                beside = Cell(told(room=room), "yellow")
            else:
                below = "  " + paint(told(room=width - 2), "yellow", stream)
        elif phase and phase.seconds is not None and span(text := story.remark(name)) <= room:
            beside = Cell(text, "dim")
        taken = pad(times.get(name, ""), times_wide, right=True)
        row: list[str | Cell] = [_mark(phase, story, stream), pad(name, names_wide), taken, beside]
        lines.append(line(row, width=width, gap=" ", stream=stream))
        lines += [below] if below else []
    return lines


def _drain_under_way(name: str, story: Story) -> Drain | None:
    if name != "drain" or not isinstance(story, Progress) or name not in story.phases:
        return None
    return story.drain if story.phases[name].seconds is None and story.drain and story.drain.initial else None


def _mark(phase: Phase | None, story: Story, stream: IO[str]) -> Cell:
    marks = phases.marks(stream)
    if phase is None:
        return Cell(marks.ahead, "dim")
    if story.has_failed and phase is [*story.phases.values()][-1]:
        return Cell(marks.bad, "red")
    return Cell(marks.running, "yellow") if phase.seconds is None else Cell(marks.good, "green")
