"""The state file: one JSON file under the state folder, replaced atomically.

The file is a cache of the truth, never trusted blindly: what cannot be read, or what another user may have written, is
set aside and reported, and the proxy starts as if it were new.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import trio

from proxy.control import disk, files
from proxy.control.state import State, dump, parse
from proxy.control.trouble import Troubles
from proxy.core.backoff import Backoff
from proxy.errors import UpgradeError
from proxy.logs import facts

if TYPE_CHECKING:
    from pathlib import Path

_MAX_SIZE = 64 << 20  # bytes; whatever is larger is not ours
_AN_HOUR = 3600.0  # how long `status` shows that a file was set aside

log = logging.getLogger(__name__)


class StateFile:
    """The state in memory and its file. `changed()` is cheap; `run` writes, and coalesces what comes meanwhile."""

    def __init__(self, path: Path, troubles: Troubles | None = None) -> None:
        self.path = path
        self.state = State()
        self._troubles = troubles or Troubles()
        self._dirty = trio.Event()
        self._writing = trio.Lock()

    def load(self) -> None:
        """Read the file. One that cannot be used is renamed to `state.json.unreadable-TIME` and reported."""
        self._look_at_folder()
        try:
            with files.trusted(self.path) as descriptor:
                self.state = parse(_read(descriptor))
        except FileNotFoundError:
            return
        except files.UntrustedError as error:
            self._set_aside(f"not trusted, {disk.reason(error)}")
        except OSError as error:
            self._set_aside(disk.reason(error))
        except ValueError as error:
            self._set_aside(str(error).splitlines()[0])

    @staticmethod
    def check(path: Path) -> None:
        """Raise UpgradeError if the file is there, and is not one that this release reads. Changes nothing."""
        try:
            with files.trusted(path) as descriptor:
                parse(_read(descriptor))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise UpgradeError(f"the state in {path} cannot be read: {str(error).splitlines()[0]}") from error

    def changed(self) -> None:
        self._dirty.set()

    async def run(self) -> None:
        """Write whenever something changed, for as long as the proxy runs.

        What cannot be written is tried again with the next change, and unasked after a pause that grows to a minute.
        """
        backoff = Backoff(first=1.0, limit=60.0)
        while True:
            await self._dirty.wait()
            pause = backoff.next_delay()
            while not await self._flush():
                with trio.move_on_after(pause) as alone:
                    await self._dirty.wait()
                if alone.cancelled_caught:  # many changes in a row say nothing about how long it will last
                    pause = backoff.next_delay()
            backoff.reset()

    async def flush(self) -> None:
        """Write now; returns when the state as of the call is on disk, or the trouble is reported."""
        if not await self._flush():
            self.changed()  # it still is: `run` tries again

    async def _flush(self) -> bool:
        with trio.CancelScope(shield=True):
            async with self._writing:
                if self._dirty.is_set():  # otherwise `run` waits for this very one
                    self._dirty = trio.Event()
                written = await self._write(dump(self.state))
        return written

    async def _write(self, data: bytes) -> bool:
        try:
            await trio.to_thread.run_sync(files.replace, self.path, data)
        except OSError as error:
            text = f"the state cannot be written to {self.path}: {disk.reason(error)}"
            self._troubles.set("state", text, disk.hint(error, self.path.parent))
            return False
        self._troubles.clear("state")
        return True

    def _set_aside(self, why: str) -> None:
        """Status shows it for an hour: it has happened, and there is nothing that could be put right."""
        text = f"the state file is unreadable: {why}"
        try:
            text += f"; it was set aside as {files.set_aside(self.path).name}"
        except OSError as error:
            text += f"; it could not be set aside: {disk.reason(error)}"
        self._troubles.set("state", text, about="set aside", lasts=_AN_HOUR)

    def _look_at_folder(self) -> None:
        try:
            why = files.others(os.stat(self.path.parent))
        except OSError:  # whatever it is, writing will say it
            return
        if why:
            hint = f"chown it to the proxy's user and `chmod 700 {self.path.parent}`"
            extra = facts(folder=self.path.parent, reason=why, hint=hint)
            log.warning("the state folder is not the proxy's alone, and decides what it runs", extra=extra)


def _read(descriptor: int) -> bytes:
    if os.fstat(descriptor).st_size > _MAX_SIZE:
        raise ValueError(f"it is larger than {_MAX_SIZE >> 20} MiB")
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(_MAX_SIZE + 1)
