"""Progress on a terminal: phases with times, a bar of draining connections, the deadline counting down."""

from __future__ import annotations

import time
from typing import IO, TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from proxy.cli.progress import Drain, Phase, Progress
from proxy.cli.terminal import age, took

if TYPE_CHECKING:
    from types import TracebackType

    from proxy.cli.progress import Story

TICK = 0.1  # seconds between two drawings


class Screen:
    """Draws over its own lines on `stream`; the last drawing stays."""

    tick = TICK

    def __init__(self, story: Story, stream: IO[str]) -> None:
        self._story = story
        self._console = Console(file=stream, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        self.update()
        return self

    def update(self) -> None:
        self._live.update(draw(self._story, time.time(), ascii_only=self._console.options.ascii_only), refresh=True)

    def say(self, text: str) -> None:
        """A line above the picture, that stays."""
        self._console.print(text)

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.update()
        self._live.stop()


def draw(story: Story, now: float, *, ascii_only: bool = False) -> Group:
    """The whole picture at the Unix time `now`."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    for name in story.names:
        phase = story.phases.get(name)
        if phase or name not in story.seldom:
            mark = _mark(phase, story, ascii_only=ascii_only)
            grid.add_row(mark, name, _time(phase, now), _remark(name, phase, story, now))
    return Group(Text(story.headline(), style="bold"), grid)


def _mark(phase: Phase | None, story: Story, *, ascii_only: bool) -> Text:
    good, bad, none = "+x-" if ascii_only else "✓✗·"
    if phase is None:
        return Text(none, style="dim")
    if story.has_failed and phase is [*story.phases.values()][-1]:
        return Text(bad, style="red")
    return Text(">", style="yellow") if phase.seconds is None else Text(good, style="green")


def _time(phase: Phase | None, now: float) -> str:
    if phase is None:
        return ""
    return took(max(0.0, now - phase.began) if phase.seconds is None else phase.seconds)


def _remark(name: str, phase: Phase | None, story: Story, now: float) -> Table | Text:
    if phase is None:
        return Text("")
    if isinstance(story, Progress) and name == "drain":
        return _drain(phase, story.drain, now) if story.drain else Text("")
    return Text("" if phase.seconds is None else story.remark(name), style="dim")


def _drain(phase: Phase, drain: Drain, now: float) -> Table | Text:
    if phase.seconds is not None:
        return Text(f"{drain.initial - drain.forced} finished, {drain.forced} closed at the deadline", style="dim")
    row = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(1, drain.initial), completed=drain.initial - drain.remaining, width=20)
    row.add_row(bar, Text(f"{drain.remaining} of {drain.initial} open, closed in {age(drain.deadline - now)}"))
    return row
