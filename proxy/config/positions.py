"""Where each key and value of a TOML file is, which tomli does not say.

A tolerant scanner: it is run on text that tomli has parsed, follows the same grammar (TOML 1.1), and checks nothing.
What it does not understand ends the scan, so that later keys have no place of their own; it never raises.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import tomli

Path = tuple[str | int, ...]
"""Keys and array indexes from the top of the file: `("services", "web", "listen", 1)`."""


class Place(NamedTuple):
    """Both count from 1; columns are characters."""

    line: int
    column: int


@dataclass(frozen=True)
class Places:
    """Where keys and values begin. A table's key and value are both its header."""

    keys: dict[Path, Place]
    values: dict[Path, Place]

    def of_key(self, path: Path) -> Place:
        """The place of the key; if it has none, of the closest table or value around it; at worst the first line."""
        return self._closest(self.keys, path)

    def of_value(self, path: Path) -> Place:
        return self._closest(self.values, path)

    def __contains__(self, path: Path) -> bool:
        return path in self.values

    def _closest(self, places: dict[Path, Place], path: Path) -> Place:
        for length in range(len(path), 0, -1):
            if place := places.get(path[:length]) or self.values.get(path[:length]):
                return place
        return Place(1, 1)


def find_places(text: str) -> Places:
    """Map every key path of the TOML text to its place."""
    scanner = _Scanner(text)
    with suppress(_LostError, RecursionError):  # what was found up to there is still right
        scanner.scan()
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    return Places(
        {path: _place(starts, offset) for path, offset in scanner.keys.items()},
        {path: _place(starts, offset) for path, offset in scanner.values.items()},
    )


def _place(starts: list[int], offset: int) -> Place:
    line = bisect_right(starts, offset)
    return Place(line, offset - starts[line - 1] + 1)


class _LostError(Exception):
    """The text is not what the grammar allows here."""


_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'  # up to two quotes may precede the closing three
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^\s,\]}#]+(?: [0-9][0-9:.Zz+-]*)?")  # a date and its time may be a space apart


class _Scanner:
    """Recursive descent; offsets are recorded where a key or value begins, the first time it is seen."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.keys: dict[Path, int] = {}
        self.values: dict[Path, int] = {}
        self._table: Path = ()
        self._lengths: dict[Path, int] = {}  # of arrays of tables

    def scan(self) -> None:
        self._take(_BLANK)
        while self.at < len(self.text):
            if self._peek("["):
                self._header()
            else:
                self._pair(self._table)
            self._take(_BLANK)

    def _header(self) -> None:
        start = self.at
        array = self.text.startswith("[[", start)
        self.at += 2 if array else 1
        parts = self._dotted_key()
        self._expect("]]" if array else "]")
        path: Path = ()
        for number, (part, offset) in enumerate(parts, start=1):
            path = (*path, part)
            last = number == len(parts)
            self._record(path, start if last else offset, again=last and not array)
            if last and array:
                self._lengths[path] = self._lengths.get(path, 0) + 1
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
                self._record(path, start)
        self._table = path

    def _pair(self, table: Path) -> None:
        path = table
        for part, offset in self._dotted_key():
            path = (*path, part)
            self._record(path, offset)
        self._expect("=")
        self._take(_SPACE)
        self.values[path] = self.at
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._peek("["):
            self._array(path)
        elif self._peek("{"):
            self._inline_table(path)
        elif not self._match(_STRING) and not self._match(_SCALAR):
            raise _LostError

    def _array(self, path: Path) -> None:
        self._expect("[")
        self._take(_BLANK)
        index = 0
        while not self._skip("]"):
            self._record((*path, index), self.at)
            self._value((*path, index))
            self._separator("]")
            index += 1

    def _inline_table(self, path: Path) -> None:
        self._expect("{")
        self._take(_BLANK)
        while not self._skip("}"):
            self._pair(path)
            self._separator("}")

    def _separator(self, end: str) -> None:
        """Go past a comma and what may surround it, or up to the end."""
        self._take(_BLANK)
        if not self._peek(end):
            self._expect(",")
            self._take(_BLANK)

    def _dotted_key(self) -> list[tuple[str, int]]:
        parts = []
        while True:
            self._take(_SPACE)
            start = self.at
            parts.append((self._key(), start))
            self._take(_SPACE)
            if not self._skip("."):
                return parts

    def _key(self) -> str:
        start = self.at
        if self._match(_BARE_KEY):
            return self.text[start : self.at]
        if not self._match(_STRING):
            raise _LostError
        try:
            value = tomli.loads(f"key = {self.text[start : self.at]}")["key"]
        except tomli.TOMLDecodeError as error:
            raise _LostError from error
        return str(value)

    def _record(self, path: Path, offset: int, *, again: bool = False) -> None:
        """Keep the first place of a path, or the header of a table that was only implied before (`again`)."""
        if again or path not in self.keys:
            self.keys[path] = self.values[path] = offset

    def _peek(self, token: str) -> bool:
        return self.text.startswith(token, self.at)

    def _skip(self, token: str) -> bool:
        found = self._peek(token)
        self.at += len(token) * found
        return found

    def _expect(self, token: str) -> None:
        if not self._skip(token):
            raise _LostError

    def _match(self, pattern: re.Pattern[str]) -> bool:
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return match is not None

    def _take(self, pattern: re.Pattern[str]) -> None:
        self._match(pattern)
