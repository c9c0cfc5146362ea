"""What control needs to find everything again: one JSON file under the state folder, replaced atomically.

The file is a cache of the truth, never trusted blindly: what cannot be read is set aside and reported, and the proxy
starts as if it were new.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Annotated

import trio
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.control import files
from proxy.control.record import Record as BackendRecord  # noqa: TC001  # pydantic looks at it when it runs
from proxy.kernel import procfs
from proxy.logs import facts

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1

log = logging.getLogger(__name__)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ProcessRecord(_Model):
    """A process for certain: a pid alone can be reused, with its start time (clock ticks since boot, proc(5)) not."""

    pid: int
    start_time: int


class GenerationRecord(_Model):
    id: int
    version: str
    state: str
    backends: list[BackendRecord] = Field(default_factory=list)


class ServiceRecord(_Model):
    """`active` is the version that served last, `configured` what the file said when that was decided: as long as the
    file still says so, the decision stands; once it was edited, the file is newer.

    `known` holds the commands of versions that came with `swap X --command`.
    """

    next_generation: Annotated[int, Field(ge=1)] = 1
    active: str | None = None
    configured: str | None = None
    previous: str | None = None
    known: dict[str, list[str]] = Field(default_factory=dict)
    generations: list[GenerationRecord] = Field(default_factory=list)


class State(_Model):
    """`boot` tells whether the processes in it can still run: pids and start times begin anew with every boot."""

    format: int = FORMAT
    boot: str = Field(default_factory=procfs.boot_id)
    workers: list[ProcessRecord] = Field(default_factory=list)
    services: dict[str, ServiceRecord] = Field(default_factory=dict)


class StateFile:
    """The state in memory and its file. `changed()` is cheap; `run` writes, and coalesces what comes meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = State()
        self.trouble = ""
        self._dirty = trio.Event()
        self._writing = trio.Lock()

    def load(self) -> None:
        """Read the file. One that cannot be understood is renamed to `state.json.unreadable-TIME` and reported."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            self._report(error)
            return
        try:
            state = State.model_validate_json(text)
            if state.format != FORMAT:
                raise ValueError(f"format {state.format}, this release reads {FORMAT}")
        except (ValidationError, ValueError) as error:
            self._set_aside(error)
            return
        self.state = state

    def changed(self) -> None:
        self._dirty.set()

    async def run(self) -> None:
        """Write whenever something changed, for as long as the proxy runs."""
        while True:
            await self._dirty.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write now; returns when the state as of the call is on disk, or the trouble is reported."""
        with trio.CancelScope(shield=True):
            async with self._writing:
                self._dirty = trio.Event()
                data = json.dumps(self.state.model_dump(), indent=1).encode() + b"\n"
                await self._write(data)

    async def _write(self, data: bytes) -> None:
        try:
            await trio.to_thread.run_sync(files.replace, self.path, data)
        except OSError as error:
            self._report(error)
            return
        if self.trouble:
            log.info("state file is written again", extra=facts(file=self.path))
        self.trouble = ""

    def _set_aside(self, error: Exception) -> None:
        aside = self.path.with_name(f"{self.path.name}.unreadable-{int(time.time())}")
        reason = str(error).splitlines()[0]
        log.error("state file is unreadable; set aside", extra=facts(file=self.path, kept_as=aside, reason=reason))
        try:
            self.path.rename(aside)
        except OSError as trouble:
            self._report(trouble)

    def _report(self, error: OSError) -> None:
        """Say it once: traffic does not depend on the state file."""
        reason = error.strerror or str(error)
        if reason != self.trouble:
            log.error("state file cannot be used", extra=facts(file=self.path, reason=reason))
        self.trouble = reason
