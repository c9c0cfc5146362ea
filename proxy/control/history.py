"""What was swapped, when, how long each phase took and how it ended: one JSON line for each operation. What people
asked for (`audit.py`) is kept in the same way, in a file of its own.
"""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from proxy.control import disk, files
from proxy.control.trouble import Troubles
from proxy.core.backoff import Backoff
from proxy.logs import facts

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.control.trouble import Kind

Json = dict[str, Any]
KEEP = 1000

_TAIL = 8 << 20  # bytes of the file that are looked at; `KEEP` entries have about a tenth of that
_AN_HOUR = 3600.0  # how long `status` shows that a file was set aside

log = logging.getLogger(__name__)


class History:
    """The last `KEEP` operations, newest last. A line that cannot be read (a crash mid-write) is skipped.

    What cannot be written waits in memory, and is written in order once that is possible: with the next entry, or
    unasked by `run`.
    """

    def __init__(self, path: Path, troubles: Troubles | None = None, kind: Kind = "history") -> None:
        """`kind` is what trouble with the file is called."""
        self.path = path
        self._kind = kind
        self.entries: deque[Json] = deque(maxlen=KEEP)
        self._troubles = troubles or Troubles()
        self._unwritten: deque[Json] = deque(maxlen=KEEP)
        self._lines = 0
        self._damaged = False  # the file does not end with a whole line of ours: it has to be written anew
        self._failed = trio.Event()

    def load(self) -> None:
        """Read the end of the file. One that another user may have written is set aside and reported."""
        try:
            with files.trusted(self.path) as descriptor:
                text, was_cut = _tail(descriptor)
        except FileNotFoundError:
            return
        except OSError as error:
            self._set_aside(disk.reason(error))
            return
        unreadable = self._read(text)
        if unreadable or (text and not text.endswith(b"\n")):
            log.warning("unreadable lines were left out", extra=facts(file=self.path, lines=unreadable))
            self._damaged = True
        if self._damaged or was_cut:
            self._write(anew=True)

    async def run(self) -> None:
        """Write what could not be written, once it can be: tried again after a pause that grows to a minute."""
        backoff = Backoff(first=1.0, limit=60.0)
        while True:
            await self._failed.wait()
            await trio.sleep(backoff.next_delay())
            if self._write():
                backoff.reset()

    def add(self, entry: Json) -> None:
        """Append and sync; what cannot be written is reported, and kept in memory."""
        self.entries.append(entry)
        self._unwritten.append(entry)
        self._write()

    def of(self, service: str | None = None, *, limit: int = 100) -> list[Json]:
        """The newest `limit` entries, of one service or of all, newest last."""
        chosen = [entry for entry in self.entries if service is None or entry.get("service") == service]
        return chosen[-limit:] if limit > 0 else []

    def last(self, service: str) -> Json | None:
        return next((entry for entry in reversed(self.entries) if entry.get("service") == service), None)

    def _read(self, text: bytes) -> int:
        """Take in the entries of these lines; return how many lines are none."""
        unreadable = 0
        for line in text.splitlines():
            self._lines += 1
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                entry = None
            if isinstance(entry, dict):
                self.entries.append(entry)
            else:
                unreadable += 1
        return unreadable

    def _write(self, *, anew: bool = False) -> bool:
        """Write what is not in the file yet; return whether it could be."""
        try:
            if anew or self._damaged or self._lines + len(self._unwritten) > 2 * KEEP:
                self._rewrite()
            else:
                self._append()
        except OSError as error:
            text = f"{self._kind} cannot be written to {self.path}: {disk.reason(error)}"
            self._troubles.set(self._kind, text, disk.hint(error, self.path.parent))
            self._failed.set()
            return False
        self._unwritten.clear()
        self._troubles.clear(self._kind)
        if self._failed.is_set():  # otherwise `run` waits for this very one
            self._failed = trio.Event()
        return True

    def _append(self) -> None:
        """All that waits, or none of it: a part of a line would spoil what comes after it."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        try:
            self._damaged = True
            files.check(found := os.fstat(descriptor))
            try:
                _write_all(descriptor, b"".join(map(_line, self._unwritten)))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, found.st_size)
                self._damaged = False
                raise
            self._damaged = False
        finally:
            os.close(descriptor)
        self._lines += len(self._unwritten)

    def _rewrite(self) -> None:
        files.replace(self.path, b"".join(map(_line, self.entries)))
        self._damaged = False
        self._lines = len(self.entries)

    def _set_aside(self, why: str) -> None:
        """Status shows it for an hour: it has happened, and there is nothing that could be put right."""
        text = f"{self._kind} is unreadable: {why}"
        try:
            text += f"; it was set aside as {files.set_aside(self.path).name}"
        except OSError as error:
            text += f"; it could not be set aside: {disk.reason(error)}"
            self._damaged = True  # what is there is not appended to
        self._troubles.set(self._kind, text, about="set aside", lasts=_AN_HOUR)


def _tail(descriptor: int) -> tuple[bytes, bool]:
    """The end of the file, from the beginning of a line on; and whether that is not all of it."""
    start = max(0, os.fstat(descriptor).st_size - _TAIL)
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(start)
        text = file.read(_TAIL)
    return (text.partition(b"\n")[2], True) if start else (text, False)


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _line(entry: Json) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
