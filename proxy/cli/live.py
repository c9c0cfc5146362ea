"""Progress on a terminal: phases with times, a bar of draining connections, the deadline counting down."""

from __future__ import annotations

import time
from typing import IO, TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from proxy.cli.progress import PHASES, Drain, Phase, Progress
from proxy.cli.terminal import age, took

if TYPE_CHECKING:
    from types import TracebackType

TICK = 0.1  # seconds between two drawings


class Screen:
    """Draws over its own lines on `stream`; the last drawing stays."""

    tick = TICK

    def __init__(self, progress: Progress, stream: IO[str]) -> None:
        self._progress = progress
        self._console = Console(file=stream, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        self.update()
        return self

    def update(self) -> None:
        self._live.update(draw(self._progress, time.time(), ascii_only=self._console.options.ascii_only), refresh=True)

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.update()
        self._live.stop()


def draw(progress: Progress, now: float, *, ascii_only: bool = False) -> Group:
    """The whole picture at the Unix time `now`."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    for name in PHASES:
        phase = progress.phases.get(name)
        if phase or name != "bake":  # most services have none
            grid.add_row(
                _mark(phase, progress, ascii_only=ascii_only),
                name,
                _time(phase, now),
                _remark(name, phase, progress.drain, now),
            )
    return Group(Text(progress.headline(), style="bold"), grid)


def _mark(phase: Phase | None, progress: Progress, *, ascii_only: bool) -> Text:
    good, bad, none = "+x-" if ascii_only else "✓✗·"
    if phase is None:
        return Text(none, style="dim")
    if phase.seconds is None:
        return Text(">", style="yellow")
    failed = progress.result and progress.result["result"] != "swapped" and phase is [*progress.phases.values()][-1]
    return Text(bad, style="red") if failed else Text(good, style="green")


def _time(phase: Phase | None, now: float) -> str:
    if phase is None:
        return ""
    return took(max(0.0, now - phase.began) if phase.seconds is None else phase.seconds)


def _remark(name: str, phase: Phase | None, drain: Drain | None, now: float) -> Table | Text:
    if name != "drain" or phase is None or drain is None:
        return Text("")
    if phase.seconds is not None:
        return Text(f"{drain.initial - drain.forced} finished, {drain.forced} closed at the deadline", style="dim")
    row = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(1, drain.initial), completed=drain.initial - drain.remaining, width=20)
    row.add_row(bar, Text(f"{drain.remaining} of {drain.initial} open, closed in {age(drain.deadline - now)}"))
    return row
