"""Where the body of a message ends (RFC 9112, sections 6 and 7).

Each kind has `take(data)`: how many of these bytes belong to the body; and `is_done`: whether it is over. From its
`state()`, a dictionary of JSON values and bytes, `restored` makes it again, in another process or release.
"""

from __future__ import annotations

import re
from typing import Any, Final, Protocol

from proxy.core.http.head import CHUNKED, CLAIMS, LIMIT, UNTIL_CLOSE, HeadError, names_of_trailers

# A size of up to 15 digits stays below 2**60. Extensions are passed on, but not without end.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]{0,16};[\t\x20-\x7e\x80-\xff]{0,4096})?\r\n")
_BEGUN_SIZE = re.compile(rb"(?:[0-9A-Fa-f]{1,15}(?:[ \t]{0,16}|[ \t]{0,16};[\t\x20-\x7e\x80-\xff]{0,4096})\r?)?")
_LONGEST_SIZE = 4200
_NEXT_CHUNK = re.compile(rb"\r\n([1-9A-Fa-f][0-9A-Fa-f]{0,14})\r\n")  # behind the data of the last one
# Chunks of up to 15 bytes, any number of them at once: a client that sends only such ones would keep Python busy.
_TINY_CHUNKS = re.compile(
    rb"(?:\r\n(?:%b))+" % b"|".join(b"%b\r\n.{%d}" % (b"[%x%X]" % (n, n), n) for n in range(1, 16)), re.DOTALL
)
SIZE, END, TRAILERS = range(3)
_PLACES = ("size", "end", "trailers")  # their names in a state
BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")  # what some read as the end of a line, and some do not
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host", b"trailer"})  # RFC 9110, 6.5.1


class Body(Protocol):
    is_done: bool

    @property
    def needs_close(self) -> bool:
        """Whether only the end of the connection ends it."""
        ...

    def take(self, data: memoryview) -> int:
        """Return how many bytes at the beginning of `data` belong to the body. Raises HeadError for broken framing."""
        ...

    def state(self) -> dict[str, Any]: ...


class Nothing:
    """No body."""

    is_done = True
    needs_close = False

    def take(self, _data: memoryview) -> int:
        return 0

    def state(self) -> dict[str, Any]:
        return {"kind": "nothing"}


class Length:
    """A body of a known length."""

    __slots__ = ("_left", "is_done")
    needs_close = False

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_done = not length

    def take(self, data: memoryview) -> int:
        size = len(data)
        if size < self._left:
            self._left -= size
            return size
        size, self._left = self._left, 0
        self.is_done = True
        return size

    def state(self) -> dict[str, Any]:
        return {"kind": "length", "left": self._left}


class UntilClose:
    """A body that the end of the connection ends."""

    is_done = False
    needs_close = True

    def take(self, data: memoryview) -> int:
        return len(data)

    def state(self) -> dict[str, Any]:
        return {"kind": "until close"}


class Chunked:
    """A body in chunks, and its trailer section."""

    __slots__ = ("_begun", "_left", "_next", "is_done")
    needs_close = False

    def __init__(self) -> None:
        self.is_done = False
        self._begun = b""  # a line, or the trailer section, that is not complete
        self._left = 0  # of the present chunk's data
        self._next = SIZE  # what comes after that

    def take(self, data: memoryview) -> int:
        taken, size = 0, len(data)
        while taken < size and not self.is_done:
            if left := self._left:  # there may be a lot of it
                step = min(left, size - taken)
                self._left = left - step
                taken += step
            elif self._next == END and not self._begun and (match := _TINY_CHUNKS.match(data, taken)):
                taken = match.end()
            elif self._next == END and not self._begun and (match := _NEXT_CHUNK.match(data, taken)):
                # The common case: much quicker, and there may be thousands of them in a buffer.
                self._left = int(match[1], 16)
                taken = match.end()
            elif self._next == END:
                taken += self._end(data[taken:])
            elif self._next == SIZE:
                taken += self._size(data[taken:])
            else:
                taken += self._trailers(data[taken:])
        return taken

    def state(self) -> dict[str, Any]:
        place = _PLACES[self._next]
        return {"kind": "chunked", "left": self._left, "next": place, "begun": self._begun, "is_done": self.is_done}

    def restore(self, state: dict[str, Any]) -> None:
        self._left = size_of(state, "left")
        self._next = _PLACES.index(state["next"])
        self._begun = bytes_of(state, "begun")
        self.is_done = bool(state["is_done"])

    def _size(self, data: memoryview) -> int:
        line, before = self._line(data, _LONGEST_SIZE)
        match = _SIZE.match(line)
        if match is None:
            if not _BEGUN_SIZE.fullmatch(line):
                raise HeadError("not the size of a chunk")
            self._begun = line
            return len(line) - before
        self._begun = b""
        self._left = int(match[1], 16)
        self._next = END if self._left else TRAILERS
        return match.end() - before

    def _end(self, data: memoryview) -> int:
        line, before = self._line(data, 2)
        if not b"\r\n".startswith(line):
            raise HeadError("a chunk does not end where it should")
        if len(line) < 2:
            self._begun = line
        else:
            self._begun = b""
            self._next = SIZE
        return len(line) - before

    def _trailers(self, data: memoryview) -> int:
        block, before = self._line(data, LIMIT)
        if block.startswith(b"\r\n"):
            end = 2
        elif (found := block.find(b"\r\n\r\n", max(0, before - 3))) >= 0:
            end = found + 4
            names = names_of_trailers(block[:end])
            if names & _FRAMING or any(name.replace(b"_", b"-").startswith(CLAIMS) for name in names):
                raise HeadError("fields in a trailer section that must not be there")
        elif len(block) >= LIMIT:
            raise HeadError("a trailer section of more than 64 KiB")
        elif BARE.search(block, max(0, before - 1)):
            # At once: the backend may take it for the end, and what follows for another request.
            raise HeadError("a bare CR or LF in a trailer section")
        else:
            self._begun = block
            return len(block) - before
        self._begun = b""
        self.is_done = True
        return end - before

    def _line(self, data: memoryview, limit: int) -> tuple[bytes, int]:
        """Return what was begun with more of `data`, up to `limit` bytes in all, and how much was there before."""
        before = len(self._begun)
        return self._begun + bytes(data[: limit - before]), before


NOTHING: Final = Nothing()


def of_length(length: int) -> Body:
    """Return a body for a `length` as heads have it."""
    if not length:
        return NOTHING
    if length == CHUNKED:
        return Chunked()
    return UntilClose() if length == UNTIL_CLOSE else Length(length)


def size_of(state: dict[str, Any], name: str) -> int:
    """Return a number of bytes of a state. Raises ValueError for what is none."""
    value = state[name]
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"not a number of bytes: {name} is {value!r}")
    return value


def bytes_of(state: dict[str, Any], name: str) -> bytes:
    """Return bytes of a state. Raises ValueError for what is none."""
    value = state[name]
    if not isinstance(value, bytes):
        raise ValueError(f"not bytes: {name} is {value!r}")  # noqa: TRY004  # it is what was sent that is wrong
    return value


def restored(state: dict[str, Any]) -> Body:
    """Return a body that goes on where the one with this state was. Raises ValueError or KeyError for what is none."""
    match state["kind"]:
        case "nothing":
            return NOTHING
        case "length":
            return Length(size_of(state, "left"))
        case "until close":
            return UntilClose()
        case "chunked":
            chunked = Chunked()
            chunked.restore(state)
            return chunked
        case kind:
            raise ValueError(f"not a kind of body: {kind!r}")
