"""Progress for logs and pipes: one line for each phase, when it is over."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Self

import click

from proxy.cli.terminal import plural, took

if TYPE_CHECKING:
    from types import TracebackType

    from proxy.cli.progress import Progress

TICK = 5.0  # seconds; nothing is drawn in between


class Plain:
    """Writes to `stream`, line by line."""

    tick = TICK

    def __init__(self, progress: Progress, stream: IO[str]) -> None:
        self._progress = progress
        self._stream = stream
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        self._say(self._progress.headline())
        return self

    def update(self) -> None:
        for name, phase in self._progress.phases.items():
            if phase.seconds is not None and name not in self._told:
                self._told.add(name)
                self._say(f"{name:<6}  {took(phase.seconds):>7}{self._remark(name)}")

    def _remark(self, name: str) -> str:
        drain = self._progress.drain
        if name == "switch":
            return "  new connections go to the new generation"
        if name == "drain" and drain and drain.initial:
            return f"  {plural(drain.initial, 'connection')}, {drain.forced} closed at the deadline"
        return ""

    def _say(self, text: str) -> None:
        click.echo(text, file=self._stream)

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.update()
