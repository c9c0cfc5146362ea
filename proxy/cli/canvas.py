"""A picture on a terminal that is drawn over in place, whatever becomes of the window meanwhile."""

from __future__ import annotations

import re
from typing import IO, TYPE_CHECKING

from proxy.cli.cells import best, span
from proxy.cli.terminal import plural, shows, size

if TYPE_CHECKING:
    from collections.abc import Callable

    Picture = Callable[[int], list[str]]  # its lines, for so many columns

_COLORS = re.compile(r"\x1b\[\d+m")

# Each drawing is one piece of output that begins and ends with these, so that a terminal is as it was before whenever
# this process ends: no cursor in sight, and should a terminal think a line longer than we do, it is cut, not wrapped.
_BEGIN = "\x1b[?25l\x1b[?7l"
_END = "\x1b[?7h\x1b[?25h"
_REST_OF_LINE, _REST_OF_SCREEN, _HOME = "\x1b[K", "\x1b[J", "\x1b[H"


class Canvas:
    """Begins where the cursor is; `whole`: at the top of the screen, what was on it having moved up and out of it.

    The cursor is left at the beginning of the line below the picture.
    """

    def __init__(self, stream: IO[str], *, whole: bool = False) -> None:
        self._stream = stream
        self._is_whole = False
        self._columns = 0
        self._height = 0
        self._drawn = ""
        if whole:
            self._move_up()

    def draw(self, picture: Picture) -> None:
        columns, rows = size(self._stream)
        if self._columns not in {0, columns} and not self._is_whole:
            # Terminals may have wrapped the lines that are there: nobody knows where the picture begins now.
            self._move_up()
        self._columns = columns
        lines = _what_fits(picture(columns), columns, max(1, rows - 1), self._stream)
        begin = _HOME if self._is_whole else "\r" + (f"\x1b[{self._height}A" if self._height else "")
        self._height = len(lines)
        body = "".join(text + ("\n" if _is_full(text, columns) else f"{_REST_OF_LINE}\n") for text in lines)
        drawing = f"{_BEGIN}{begin}{body}{_REST_OF_SCREEN}{_END}"
        if drawing != self._drawn:
            self._drawn = drawing
            self._write(drawing)

    def close(self) -> None:
        """Leave the picture as it is, and no trace of a Ctrl-C below it."""
        self._write(f"\r{_REST_OF_SCREEN}{_END}")

    def _move_up(self) -> None:
        """What is above the cursor leaves the screen, and can be scrolled back to."""
        self._is_whole = True
        self._write("\r" + "\n" * (size(self._stream)[1] - 1))

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _is_full(text: str, columns: int) -> bool:
    """In the last column of a line, "erase the rest" would erase what was just written."""
    return span(_COLORS.sub("", text)) >= columns


def _what_fits(lines: list[str], columns: int, rows: int, stream: IO[str]) -> list[str]:
    """Without the gaps where there are too many lines, and if that is not enough, without the last ones."""
    if len(lines) > rows:
        lines = [text for text in lines if text]
    if len(lines) <= rows:
        return lines
    note = f"{'…' if shows('…', stream) else '...'} {plural(len(lines) - rows + 1, 'more line')}"
    return [*lines[: rows - 1], best([f"{note}, in a taller window", note], columns)]
