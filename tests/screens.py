"""What a person sees: `proxyctl` on a pseudo-terminal, and an emulator that draws what it prints."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import sys
import termios
import threading
from typing import TYPE_CHECKING, Any, Self

import pyte
import pytest
from pyte import modes
from wcwidth import wcwidth

if TYPE_CHECKING:
    from collections.abc import Callable

PROXYCTL = [sys.executable, "-P", "-m", "proxy.cli"]
PATIENCE = 30.0  # seconds; nothing waits this long when all is well
SIZES = [(20, 10), (40, 15), (80, 24), (120, 40)]  # columns and rows
_OTHERS_WISHES = {"NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHONIOENCODING"}


class Emulator(pyte.Screen):
    """Counts in `overlong` how often something did not fit into its line, whether it was wrapped or cut."""

    overlong = 0

    def draw(self, data: str) -> None:
        for char in data:
            self.overlong += max(0, wcwidth(char)) + self.cursor.x > self.columns
            super().draw(char)


class Terminal:
    """Runs `proxyctl` with some arguments, as a shell would; use as a context manager."""

    def __init__(self, *arguments: str, columns: int = 80, rows: int = 24, **environment: str) -> None:
        self.raw = b""
        """All that it has printed."""
        self.screen = Emulator(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._drawn = threading.Condition()
        self._controller, terminal = os.openpty()
        self.resize(columns, rows)
        inherited = {name: value for name, value in os.environ.items() if name not in _OTHERS_WISHES}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *PROXYCTL, *arguments],  # Ctrl-C and changes of the size are for whom it controls
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**inherited, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment},
        )
        os.close(terminal)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join()
        os.close(self._controller)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while piece := os.read(self._controller, 65536):
                with self._drawn:
                    self.raw += piece
                    self._stream.feed(piece)
                    self._drawn.notify_all()

    @property
    def lines(self) -> list[str]:
        """What stands on the screen, down to the last line that is not empty."""
        with self._drawn:
            assert self._drawn.wait_for(self._is_whole, PATIENCE)
            return self._lines()

    def _is_whole(self) -> bool:
        """Not in the middle of a drawing: the cursor is hidden for as long as one lasts."""
        return not self.screen.cursor.hidden

    def _lines(self) -> list[str]:
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip("\n").split("\n")

    def until(self, condition: Callable[[str], Any], what: str = "") -> Any:
        """Wait until the screen is as wanted, and return what `condition` does."""
        found: Any = None

        def is_there() -> bool:
            nonlocal found
            found = self._is_whole() and condition("\n".join(self._lines()))
            return bool(found)

        with self._drawn:
            if not self._drawn.wait_for(is_there, PATIENCE):
                pytest.fail(f"never on the screen: {what or condition}; there is:\n" + "\n".join(self._lines()))
        return found

    def shows(self, *texts: str) -> None:
        """Wait until all of these are on the screen together."""
        self.until(lambda screen: all(text in screen for text in texts), what=repr(texts))

    def resize(self, columns: int, rows: int) -> None:
        """Like somebody who drags the corner of the window."""
        with self._drawn:
            self.screen.resize(rows, columns)
            fcntl.ioctl(self._controller, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.write(self._controller, b"\x03")

    def end(self) -> int:
        """Wait for the end, and for the last of the output; returns the exit code."""
        code = self.process.wait(PATIENCE)
        self._thread.join(PATIENCE)
        return code

    def is_left_clean(self) -> bool:
        """Whether the shell's prompt would stand in an empty line, with a cursor to be seen, and long commands wrap."""
        cursor = self.screen.cursor
        return (
            cursor.x == 0
            and not cursor.hidden
            and not self.screen.display[cursor.y].strip()
            and modes.DECAWM in self.screen.mode
        )
