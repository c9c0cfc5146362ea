"""What backends printed, read from their files: the last lines, then whatever comes.

One file for each replica, `GENERATION.REPLICA.log`. When it has grown its content is copied to `….log.1` and it is
emptied in place, so a reader that finds it shorter than before goes on at the same place of the copy. Everything here
blocks on the disk; `output.py` runs it in a thread.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

PIECE = 64 * 1024  # bytes that are read at a time


class Source:
    """The output of one replica. `label` is its generation and number: `3.0`."""

    def __init__(self, path: Path) -> None:
        self.label = path.name.removesuffix(".log")
        self.generation = self.label.partition(".")[0]
        self._path = path
        self._copy = path.with_name(f"{path.name}.1")
        self._reading = path
        self._offset = 0
        self._pending = b""

    def rewind(self, lines: int) -> int:
        """Go back so that `read` returns the last `lines` lines; return how many there were to go back to."""
        self._reading = self._path
        self._offset, found = _before_last(self._path, lines)
        if found < lines:
            offset, more = _before_last(self._copy, lines - found)
            if more:
                self._reading, self._offset = self._copy, offset
            found += more
        return found

    def ahead(self) -> int:
        """How many bytes there are to read now."""
        return _size(self._reading) - self._offset + (_size(self._path) if self._reading == self._copy else 0)

    def read(self) -> bytes:
        """The next whole lines, about `PIECE` bytes of them; empty when there are none for now."""
        while piece := self._read_piece():
            text = self._pending + piece
            end = text.rfind(b"\n") + 1 or (len(text) if len(text) > PIECE else 0)
            self._pending = text[end:]
            if end:
                return text[:end]
        return b""

    def rest(self) -> bytes:
        """A last line that has no end yet."""
        rest, self._pending = self._pending, b""
        return rest

    def _read_piece(self) -> bytes:
        if self._reading == self._path and _size(self._path) < self._offset:
            self._reading = self._copy
        piece = _read_at(self._reading, self._offset)
        if not piece and self._reading == self._copy:
            self._reading, self._offset = self._path, 0
            piece = _read_at(self._path, 0)
        self._offset += len(piece)
        return piece


class Printed:
    """The output of all replicas of a version; where there are several, each line begins with `GENERATION.REPLICA`.

    `files` lists what there is now, oldest first.
    """

    def __init__(self, files: Callable[[], Sequence[Path]]) -> None:
        self._files = files
        self._sources: dict[str, Source] = {}
        self._shown: set[str] = set()

    def last(self, lines: int) -> Iterator[bytes]:
        """The last lines of each replica of the newest generation; of older ones what is missing to `lines`."""
        self._look()
        chosen: list[Source] = []
        missing, generation = lines, ""
        for source in reversed(self._sources.values()):
            if source.generation != generation and missing <= 0:
                source.rewind(0)
                continue
            wanted = lines if not generation or source.generation == generation else missing
            generation = generation or source.generation
            found = source.rewind(wanted)
            missing -= found
            if found:
                chosen.insert(0, source)
        self._shown.update(source.label for source in chosen)
        for source in chosen:
            ahead = source.ahead()  # no more than that: a busy backend may print faster than the client reads
            while ahead > 0 and (piece := source.read()):
                ahead -= len(piece)
                yield self._prefixed(source, piece)

    def rest(self) -> bytes:
        """Last lines without an end, when nothing more will be read."""
        parts = [self._prefixed(source, rest + b"\n") for source in self._sources.values() if (rest := source.rest())]
        return b"".join(parts)

    def news(self) -> bytes:
        """What was printed since, about `PIECE` bytes of each replica; empty when there is nothing for now."""
        self._look()
        parts = []
        for source in self._sources.values():
            if piece := source.read():
                self._shown.add(source.label)
                parts.append(self._prefixed(source, piece))
        return b"".join(parts)

    def _look(self) -> None:
        paths = [path for path in self._files() if path.suffix == ".log"]
        self._sources = {path.name: self._sources.get(path.name) or Source(path) for path in paths}

    def _prefixed(self, source: Source, lines: bytes) -> bytes:
        if len(self._shown) < 2:
            return lines
        prefix = source.label.encode() + b" "
        return prefix + lines[:-1].replace(b"\n", b"\n" + prefix) + lines[-1:]


def _before_last(path: Path, lines: int) -> tuple[int, int]:
    """Where the last `lines` lines of a file begin, and how many they are; (0, 0) if there is no such file."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        begin = end = file.seek(0, os.SEEK_END)
        found = 0
        while begin and lines:
            known, begin = begin, max(0, begin - PIECE)
            file.seek(begin)
            block = file.read(known - begin)
            at = len(block)
            if known == end and block.endswith(b"\n"):
                at -= 1  # the end of the last line begins no other
            while (at := block.rfind(b"\n", 0, at)) >= 0:
                found += 1
                if found == lines:
                    return begin + at + 1, found
        return (begin, found + 1) if lines and end else (end, 0)
    return 0, 0


def _read_at(path: Path, offset: int) -> bytes:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(offset)
        return file.read(PIECE)
    return b""


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
