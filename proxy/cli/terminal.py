"""What the screen can do, and numbers as people read them."""

from __future__ import annotations

import os
import sys
from typing import IO

_CODES = {"green": "32", "red": "31", "yellow": "33", "dim": "2", "bold": "1"}


def is_live(stream: IO[str]) -> bool:
    """Whether lines on it can be drawn over."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def width() -> int | None:
    """Columns of the terminal that standard output is; None when it is something else, where nothing is cut."""
    return size(sys.stdout)[0] if sys.stdout.isatty() else None


def size(stream: IO[str]) -> tuple[int, int]:
    """Columns and rows of a terminal. COLUMNS and LINES make them fewer, or stand in for what it does not know: they
    may be those of before it was resized.
    """
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except OSError:
        columns, rows = 0, 0
    return _least(columns, "COLUMNS", 80), _least(rows, "LINES", 24)


def _least(found: int, name: str, default: int) -> int:
    told = os.environ.get(name, "")
    return min(filter(None, [found, int(told) if told.isdecimal() else 0]), default=default)


def paint(text: str, color: str, stream: IO[str] | None = None) -> str:
    """Colour for standard output, or another stream, where it is wanted (https://no-color.org)."""
    if not color or os.environ.get("NO_COLOR") or not is_live(stream or sys.stdout):
        return text
    return f"\x1b[{_CODES[color]}m{text}\x1b[0m"


def shows(text: str, stream: IO[str] | None = None) -> bool:
    """Whether the encoding of standard output, or of another stream, has these characters."""
    encoding: str = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def took(seconds: float) -> str:
    """How long something took: `8ms`, `1.25s`, `2m03s`, `1h02m`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.995:
        return f"{seconds:.2f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def age(seconds: float) -> str:
    """How long ago, in the two units that matter: `5s`, `3m20s`, `2h05m`, `4d12h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
