"""What was swapped, when, how long each phase took and how it ended: one JSON line for each operation."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from proxy.control import files
from proxy.logs import facts

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]
KEEP = 1000

log = logging.getLogger(__name__)


class History:
    """The last `KEEP` operations, newest last. A line that cannot be read (a crash mid-write) is skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: deque[Json] = deque(maxlen=KEEP)
        self._lines = 0

    def load(self) -> None:
        try:
            text = self.path.read_text(errors="replace")
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("history cannot be read", extra=facts(file=self.path, reason=error.strerror))
            return
        unreadable = 0
        for line in text.splitlines():
            self._lines += 1
            try:
                entry = json.loads(line)
            except ValueError:
                unreadable += 1
                continue
            if isinstance(entry, dict):
                self.entries.append(entry)
        if unreadable or (text and not text.endswith("\n")):
            log.warning("history had unreadable lines", extra=facts(file=self.path, lines=unreadable))
            self._rewrite()

    def add(self, entry: Json) -> None:
        """Append and sync; what cannot be written is reported, and kept in memory."""
        self.entries.append(entry)
        try:
            if self._lines >= 2 * KEEP:
                self._rewrite()
            else:
                self._append(entry)
        except OSError as error:
            log.error("history cannot be written", extra=facts(file=self.path, reason=error.strerror))

    def of(self, service: str | None = None, *, limit: int = 100) -> list[Json]:
        """The newest `limit` entries, of one service or of all, newest last."""
        chosen = [entry for entry in self.entries if service is None or entry.get("service") == service]
        return chosen[-limit:] if limit > 0 else []

    def last(self, service: str) -> Json | None:
        return next((entry for entry in reversed(self.entries) if entry.get("service") == service), None)

    def _append(self, entry: Json) -> None:
        with self.path.open("ab") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())
        self._lines += 1

    def _rewrite(self) -> None:
        try:
            files.replace(self.path, b"".join(_line(entry) for entry in self.entries))
        except OSError as error:
            log.error("history cannot be written", extra=facts(file=self.path, reason=error.strerror))
            return
        self._lines = len(self.entries)


def _line(entry: Json) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
