"""Progress for logs and pipes: one line for each phase, when it is over."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Self

import click

from proxy.cli.cells import visible
from proxy.cli.terminal import took

if TYPE_CHECKING:
    from types import TracebackType

    from proxy.cli.progress import Story

TICK = 5.0  # seconds; nothing is drawn in between


class Plain:
    """Writes to `stream`, line by line."""

    tick = TICK

    def __init__(self, story: Story, stream: IO[str]) -> None:
        self._story = story
        self._stream = stream
        self._told: set[str] = set()
        self._width = max(map(len, story.names))

    def __enter__(self) -> Self:
        self.say(self._story.headline())
        return self

    def update(self) -> None:
        for name, phase in self._story.phases.items():
            if phase.seconds is not None and name not in self._told:
                self._told.add(name)
                self.say(f"{name:<{self._width}}  {took(phase.seconds):>7}  {self._story.remark(name)}".rstrip())

    def say(self, text: str) -> None:
        click.echo(visible(text), file=self._stream)

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.update()
