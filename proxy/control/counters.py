"""Counters outlive the control process: what a scrape shows is on file first, and the next process goes on from it.

A crash of the process is all that this is for, and what was written survives that in the page cache. So the file is
replaced by rename, but nothing waits for the disk. After a crash of the machine every counter begins at zero, as
everything else does.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from proxy.control import disk, files
from proxy.control.trouble import Troubles
from proxy.kernel import procfs
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from proxy.control.traffic import Traffic
    from proxy.metrics import Metrics

Json = dict[str, Any]

FORMAT = 1
# What was counted since, and never shown, a crash may take along.
INTERVAL = 1.0
# Many thousands of series take a while to write. It is done less often then: for no more than this share of the time.
_SHARE = 0.05

log = logging.getLogger(__name__)


class CountersFile:
    """The file of what `metrics` and `traffic` count. It learns of each change, and writes when it has to."""

    def __init__(
        self,
        path: Path,
        metrics: Metrics,
        traffic: Traffic,
        *,
        interval: float = INTERVAL,
        troubles: Troubles | None = None,
    ) -> None:
        self.path = path
        self._troubles = troubles or Troubles()
        self._metrics = metrics
        self._traffic = traffic
        self._interval = interval
        self._boot = procfs.boot_id()
        self._changes = 0
        self._written = 0
        self._changed = trio.Event()
        self._writing = trio.Lock()
        metrics.on_change = traffic.on_change = self._note

    def load(self, alive: Collection[str]) -> bool:
        """Go on from what the last process counted; whether there was something, and all of it could be used.

        `alive` are the names of the workers that run (`traffic.name_of`). What cannot be used is reported and ignored.
        """
        try:
            saved = self._read()
        except FileNotFoundError:
            return False
        except (OSError, ValueError, RecursionError) as error:
            return self._unusable(error)
        if saved["boot"] != self._boot:
            log.info("counters begin at zero: the machine was started anew", extra=facts(file=self.path))
            return False
        restored = self._restore(self._metrics.restore, saved["metrics"])
        return self._restore(lambda part: self._traffic.restore(part, alive), saved["traffic"]) and restored

    async def run(self) -> None:
        """Write while something changes, at most once per interval."""
        while True:
            await self._changed.wait()
            began = trio.current_time()
            await self.shown()
            await trio.sleep(max(self._interval, (trio.current_time() - began) / _SHARE))

    async def shown(self) -> None:
        """Call this between putting an answer together and sending it: what it shows is on file then.

        Otherwise the next process could show less, and a counter that steps back is counted twice. Trouble with the
        file is reported, and the answer goes out all the same.
        """
        wanted = self._changes
        async with self._writing:
            if self._written < wanted:
                with trio.CancelScope(shield=True):
                    await self._write()

    def discard(self) -> None:
        """After a clean stop: the next start is a new one."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            self._report(error)

    def _note(self) -> None:
        self._changes += 1
        self._changed.set()

    def _read(self) -> Json:
        with files.trusted(self.path) as descriptor, open(descriptor, "rb", closefd=False) as file:
            saved = json.loads(file.read())
        match saved:
            case {"format": found} if found == FORMAT:
                pass
            case {"format": found}:
                raise ValueError(f"format {found!r:.20}, this release reads {FORMAT}")
        match saved:
            case {"boot": str(), "metrics": dict(), "traffic": dict()}:
                return dict(saved)
        raise ValueError("not a file of counters")

    def _restore(self, restore: Callable[[Json], None], part: Json) -> bool:
        """One part can be used without the other."""
        try:
            restore(part)
        except (ValueError, RecursionError) as error:
            return self._unusable(error)
        return True

    async def _write(self) -> None:
        changes, self._changed = self._changes, trio.Event()
        try:
            await trio.to_thread.run_sync(partial(files.replace, self.path, self._saved(), sync=False))
        except OSError as error:
            self._report(error)
            return
        self._written = changes
        self._troubles.clear("counters")

    def _saved(self) -> bytes:
        saved = {
            "format": FORMAT,
            "boot": self._boot,
            "metrics": self._metrics.save(),
            "traffic": self._traffic.save(),
        }
        return json.dumps(saved, separators=(",", ":")).encode()

    def _unusable(self, error: Exception) -> bool:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        log.error("counters of the last process cannot be used", extra=facts(file=self.path, reason=reason))
        return False

    def _report(self, error: OSError) -> None:
        """Neither traffic nor scrapes depend on the file."""
        text = f"the counters file {self.path} cannot be written: {disk.reason(error)}"
        self._troubles.set("counters", text, disk.hint(error, self.path.parent))
