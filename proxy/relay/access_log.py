"""The access log: one JSON object per line and request, written beside the event loop and never in its way.

The loop only appends to a list. A thread does the writing, so that a slow disk, or a pipe that nobody reads, holds up
nothing else: when too much is waiting, lines are dropped, and how many is told in the log.

All workers write to one file. Each write appends whole lines, and one call is not mixed with another's: any number of
bytes to a file, PIPE_BUF bytes to a pipe (write(2), pipe(7)). So that is as long as a line gets.
"""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

WAITING = 8 * 1024 * 1024  # bytes that wait to be written at most
GATHER = 0.25  # seconds in which lines gather, so that one write has many
FLUSH = 2.0  # seconds in which what is waiting may still be written at the end

MODE = 0o640
# Opening these again would fail for sockets (journald) and for whoever gave up the rights to them.
_STANDARD: Final = {"/dev/stdout": 1, "/dev/stderr": 2}
_LONGEST_TARGET = 3000  # characters, quoted for JSON; the rest of a line fits beside them into PIPE_BUF
_NEWLINE = ord("\n")
_LONGEST_ESCAPE = len("\\u00ff")

_BOOLEANS = ("false", "true")
_quoted = json.JSONEncoder().encode  # in ASCII, and quicker than json.dumps


class Entry(NamedTuple):
    """One request. `time` is in seconds since 1970, `duration` in seconds, `bytes` what the client got, head included.

    `client` is "" where there is no address, `status` 0 where no answer was begun, `replica` None where the request
    reached none; `version` and `generation` are "" and 0 then.
    """

    time: float
    client: str
    method: str
    target: str
    status: int
    bytes: int
    duration: float
    service: str
    version: str
    generation: int
    replica: int | None
    retried: bool
    migrated: bool


def format_line(entry: Entry) -> bytes:
    """Return a line of JSON, its newline included: at most PIPE_BUF bytes. A target that is too long ends with "…"."""
    target = _quoted(entry.target)
    if len(target) > _LONGEST_TARGET:
        target = _quoted(entry.target[:_LONGEST_TARGET] + "…")
        if len(target) > _LONGEST_TARGET + 2 + _LONGEST_ESCAPE:  # with quotes, and the ellipsis
            target = _quoted(entry.target[: _LONGEST_TARGET // _LONGEST_ESCAPE] + "…")
    seconds, milliseconds = divmod(round(entry.time * 1000), 1000)
    replica = "null" if entry.replica is None else entry.replica
    return (
        f'{{"time":"{_second(seconds)}.{milliseconds:03d}Z","client":{_quoted(entry.client)}'
        f',"method":{_quoted(entry.method)},"target":{target},"status":{entry.status},"bytes":{entry.bytes}'
        f',"duration":{entry.duration:.6f},"service":{_quoted(entry.service)},"version":{_quoted(entry.version)}'
        f',"generation":{entry.generation},"replica":{replica}'
        f',"retried":{_BOOLEANS[entry.retried]},"migrated":{_BOOLEANS[entry.migrated]}}}\n'
    ).encode()


@lru_cache(4)
def _second(seconds: int) -> str:
    """A time in seconds since 1970, as RFC 3339 has it, but for the fraction and the zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class AccessLog:
    """Appends lines to `path`: a file, which may be moved away at any time, a pipe, or a device."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: _File | None = None
        self._lines: list[bytes] = []
        self._waiting = 0  # bytes, also of the lines that are being written
        self._some = trio.Event()  # there are lines
        self._ending = trio.Event()
        self._lost = 0  # lines, since it was last said

    def open(self) -> None:
        """Open the file, so that what is wrong shows at the start. Raises OSError."""
        self._file = _File(self._path)

    def write(self, entry: Entry) -> None:
        """Note a request; to be called in trio's thread."""
        line = format_line(entry)
        if self._waiting + len(line) > WAITING:
            self._lose(1, "too many lines are waiting")
            return
        if not self._lines:
            self._some.set()
        self._waiting += len(line)
        self._lines.append(line)

    async def run(self) -> None:
        """Write until cancelled, and then what is waiting: for up to FLUSH, shielded."""
        if self._file is None:
            raise RuntimeError("the access log is not open")
        # A write that is under way cannot be cancelled. So the end is an event, and a deadline.
        scope = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_writing, self._file, scope)
            try:
                await trio.sleep_forever()
            finally:
                scope.deadline = trio.current_time() + FLUSH
                self._ending.set()
                self._some.set()

    async def _keep_writing(self, file: _File, scope: trio.CancelScope) -> None:
        with scope:
            while self._lines or not self._ending.is_set():
                await self._some.wait()
                with trio.move_on_after(GATHER):
                    await self._ending.wait()
                await self._write(file)
            file.close()
        if scope.cancelled_caught:
            # The thread has the descriptor still; both end with the process.
            log.warning("access log ends before all is written", extra=facts(path=self._path, waiting=self._waiting))
        elif self._lost:
            log.warning("access log lost lines", extra=facts(path=self._path, lost=self._lost))

    async def _write(self, file: _File) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        if not self._ending.is_set():
            self._some = trio.Event()
        before = self._lost
        written, error = await trio.to_thread.run_sync(file.append, lines, abandon_on_cancel=True)
        self._waiting -= sum(map(len, lines))
        if error is not None:
            self._lose(len(lines) - written, error.strerror or str(error))
        elif self._lost and self._lost == before:
            log.warning("access log works again", extra=facts(path=self._path, lost=self._lost))
            self._lost = 0

    def _lose(self, lines: int, reason: str) -> None:
        """Count lines that are not written; the first time, say so."""
        if not self._lost:
            log.warning("access log loses lines", extra=facts(path=self._path, error=reason))
        self._lost += lines


class _File:
    """The descriptor, and what it takes to write to it; used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._is_standard = str(path) in _STANDARD
        self._is_torn = False  # a line was begun and not ended
        self._open()

    def _open(self) -> None:
        if self._is_standard:
            self._fd = os.dup(_STANDARD[str(self._path)])
        else:
            # A pipe that is open for reading too can be opened and written to while nobody else reads it (fifo(7)):
            # a reader may come late, and go and come again.
            access = os.O_RDWR if self._path.is_fifo() else os.O_WRONLY
            flags = access | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
            self._fd = os.open(self._path, flags, MODE)
        self._status = os.fstat(self._fd)
        self._is_torn = False

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def append(self, lines: list[bytes]) -> tuple[int, OSError | None]:
        """Write the lines; returns how many of them are written in full, and what stopped the others."""
        written = 0
        try:
            self._follow()
            if self._is_torn:
                os.write(self._fd, b"\n")
                self._is_torn = False
            for data in [b"".join(lines)] if stat.S_ISREG(self._status.st_mode) else _packets(lines):
                left = data
                while left:  # a disk that becomes full takes a part
                    size = os.write(self._fd, left)
                    written += left.count(b"\n", 0, size)
                    self._is_torn = left[size - 1] != _NEWLINE
                    left = left[size:]
        except OSError as error:
            return written, error
        return written, None

    def _follow(self) -> None:
        """Open the path again if it is another file by now, or none (logrotate)."""
        if self._is_standard:
            return
        try:
            if self._fd >= 0 and os.path.samestat(os.stat(self._path), self._status):
                return
        except FileNotFoundError:
            pass
        self.close()
        self._open()


def _packets(lines: list[bytes]) -> Iterator[bytes]:
    """Join lines to as much as a pipe takes in one piece."""
    packet = b""
    for line in lines:
        if packet and len(packet) + len(line) > select.PIPE_BUF:
            yield packet
            packet = b""
        packet += line
    yield packet
