"""Text in the columns of a screen: how many it takes, cut or folded to fit, and nothing in it that a terminal obeys."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from proxy.cli.terminal import shows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_JOINERS = "\u200c\u200d"  # between letters and in emoji; they change no more than the shape
_EMOJI = "\ufe0f"  # makes the character before it an emoji, which is wide


def visible(text: str) -> str:
    r"""With what a terminal would obey, or hide, as Python writes it: `\x1b`. Tabs become spaces."""
    if text.isprintable():
        return text
    return "".join(char if _is_shown(char) else char.encode("unicode_escape").decode() for char in text.expandtabs())


def _is_shown(char: str) -> bool:
    return char.isprintable() or char in _JOINERS or unicodedata.category(char) == "Zs"


def span(text: str) -> int:
    """Columns that it takes, or one more for some emoji, as terminals do not agree on them."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return int(char == _EMOJI)
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """Filled up with spaces; `right`: aligned to the right."""
    gap = " " * (columns - span(text))
    return gap + text if right else text + gap


def cut(text: str, room: int | None) -> str:
    """What fits; a mark at the end says that there is more."""
    if room is None or span(text) <= room:
        return text
    return _beginning(text, room - 1) + ("…" if shows("…") else "~") if room > 1 else _beginning(text, room)


def best(forms: Sequence[str], room: int | None) -> str:
    """The first of several ways to say something that fits; the last one is cut where it has to be."""
    return next((form for form in forms if room is None or span(form) <= room), cut(forms[-1], room))


def wrapped(text: str, room: int | None, *, first: str = "", rest: str = "  ") -> list[str]:
    """A sentence whose end matters as much as its beginning, as lines."""
    return fold(visible(text).split(), room, first=first, rest=rest)


def fold(words: Iterable[str], room: int | None, *, first: str = "", rest: str = "  ", gap: str = " ") -> list[str]:
    """Lines of words; only those that are longer than a line are cut. `first` and `rest` are indents."""
    lines: list[str] = []
    line, is_empty = first, True
    for word in words:
        left = word
        if not is_empty and room is not None and span(line + gap + word) > room:
            lines.append(line)
            line, is_empty = rest, True
        line += "" if is_empty else gap
        while left and room is not None and span(line + left) > room:
            piece = _beginning(left, room - span(line)) or left[0]
            lines.append(line + piece)
            line, left = rest, left[len(piece) :]
        line, is_empty = line + left, not left
    return lines if is_empty else [*lines, line]


def _beginning(text: str, columns: int) -> str:
    taken = 0
    for index, char in enumerate(text):
        taken += _columns(char)
        if taken > columns:
            return text[:index]
    return text
