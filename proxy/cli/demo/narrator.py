"""How the demo speaks: lines that stay, each with its time, and one that tells how things stand.

On a terminal that one is the last line, drawn over in place; elsewhere it is a line like any other.
"""

from __future__ import annotations

import sys

import click
import trio

from proxy.cli.terminal import is_live, paint, width

_ERASE = "\r\x1b[K"


class Narrator:
    """Times are those since it was made."""

    def __init__(self) -> None:
        self.is_live = is_live(sys.stdout)
        self._began = trio.current_time()
        self._standing = ""

    @property
    def tick(self) -> float:
        """Seconds between two `stand`s that are pleasant to read."""
        return 0.2 if self.is_live else 1.0

    def say(self, text: str, color: str = "") -> None:
        self._write(f"{self._time()}  {paint(text, color)}")

    def ask(self, command: str) -> None:
        """A command that the reader could have typed."""
        self.say(f"$ {command}", "bold")

    def quote(self, line: str) -> None:
        """What a command printed."""
        self.say(f"    {line}", "dim")

    def stand(self, text: str, color: str = "") -> None:
        """How things stand now."""
        if not self.is_live:
            self.say(text, color)
            return
        # A line that is wrapped could not be drawn over.
        whole = f"{self._time()}  {text}"[: (width() or 80) - 1]
        self._standing = paint(whole, color)
        click.echo(_ERASE + self._standing, nl=False)

    def finish(self) -> None:
        """Leave the last line as it is."""
        if self._standing:
            click.echo()
            self._standing = ""

    def _time(self) -> str:
        return f"{trio.current_time() - self._began:5.1f}s"

    def _write(self, line: str) -> None:
        if not self.is_live:
            click.echo(line)
            return
        click.echo(f"{_ERASE}{line}\n{self._standing}", nl=False)
