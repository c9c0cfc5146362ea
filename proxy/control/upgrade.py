"""The proxy replaces its own code: first the control process, by exec, then the workers, one at a time.

The new code is tried in a process of its own before anything is changed. After the exec there is no way back in this
process; it has the same pid, and goes on like any control process that starts: it takes over what runs. Should it fail
to, whatever starts it again does the same.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from proxy import __version__, wire
from proxy.control import packed, reaper, relief
from proxy.control.state import FORMAT, UpgradeRecord
from proxy.errors import ProxyError, StoppingError, SwapInProgressError, UpgradeError, UpgradeInProgressError
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxy.control.app import App
    from proxy.core.caller import Caller

Json = dict[str, Any]

log = logging.getLogger(__name__)

REHEARSAL_TIMEOUT = 20.0
# Between the exec and the new code's handlers, a signal would end the process; blocked, it waits (execve(2)).
HELD_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})
_OUTPUT_LINES = 20
_SAYS = "proxyctl: "
_TURNS = 3  # of the event loop, from a signal to what is done about it


class Upgrade:
    """One at a time. `arguments` are those of the control process, which the new code gets as well."""

    def __init__(self, app: App, arguments: Sequence[str]) -> None:
        self._app = app
        self._command = (sys.executable, "-P", "-m", "proxy.main", *arguments)
        self._record: UpgradeRecord | None = None
        self._phase = ""
        self._began = 0.0  # this code, by time.monotonic()
        self._relieved: list[Json] = []
        self.last: Json | None = None
        self.pause: float | None = None  # the longest time without reads in the last handover, in seconds

    def describe(self) -> Json | None:
        """What `status` shows of one that is under way."""
        record = self._record
        if record is None:
            return None
        return {"id": record.id, "phase": self._phase, "from": record.old, "started": round(record.began, 3)}

    def begin(self, by: Caller) -> Json:
        """Start one, in the background. Raises ProxyError where that cannot be now."""
        app = self._app
        if app.is_stopping:
            raise StoppingError("the proxy is stopping", hint="`proxyctl run` starts it again, with the new code")
        if self._record:
            raise UpgradeInProgressError("an upgrade is under way", hint="`proxyctl status` shows how far it is")
        for service in app.services.values():
            if busy := service.operations.starting:
                raise SwapInProgressError(
                    f"a {busy.kind} of {service.name} to {busy.target} is under way, in phase {busy.current}",
                    hint="ask again when it has switched or failed",
                )
        state = app.deps.state.state
        self._record = UpgradeRecord(
            id=state.next_operation, old=__version__, began=time.time(), running_since=app.running_since
        )
        state.next_operation += 1
        self._relieved = []
        app.deps.audit.note("upgrade", by, upgrade=self._record.id)
        app.nursery.start_soon(self._perform, self._record)
        return {"id": self._record.id, "from": __version__, "started": round(self._record.began, 3)}

    # Before the exec.

    async def _perform(self, record: UpgradeRecord) -> None:
        log.info("upgrade begins", extra=facts(version=__version__))
        try:
            with self._app.manager.reloading():
                with self._phased("check"):
                    await self._rehearse()
                self._phase = "exec"
                self._publish(phase="exec", state="begin")
                await self._replace(record)
        except ProxyError as error:
            self._end("failed", __version__, error)
        except OSError as error:
            self._end("failed", __version__, UpgradeError(f"the new code cannot be started: {error.strerror or error}"))

    async def _rehearse(self) -> None:
        """Let the new code start in a process of its own, read this config and this state, and say that it can go on
        from here. Raises UpgradeError.
        """
        app = self._app
        await app.deps.state.flush()
        if trouble := app.deps.troubles.message("state"):
            raise UpgradeError(
                f"the state cannot be handed over: {trouble}",
                hint="`proxyctl status` shows the trouble, and what to do",
            )
        handed_over = {"state": FORMAT, "wire": wire.VERSION, "state_dir": str(app.settings.state_dir)}
        with tempfile.TemporaryFile() as printed:
            process = await reaper.spawn(
                [*self._command, "--rehearse", json.dumps(handed_over)],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )
            try:
                with trio.move_on_after(REHEARSAL_TIMEOUT):
                    await process.wait()
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    code = await process.wait()
            printed.seek(0)
            lines = printed.read(1 << 16).decode(errors="replace").strip().splitlines()[-_OUTPUT_LINES:]
        if code == 0:
            return
        why = (
            f"the new code did not get ready within {REHEARSAL_TIMEOUT:.0f} s"
            if code == -signal.SIGKILL
            else f"the new code cannot go on from here: {_reason(lines) or f'exit status {code}'}"
        )
        error = UpgradeError(why, hint="nothing was changed; `proxyctl upgrade` once more when that is mended")
        error.output = tuple(lines)
        raise error

    async def _replace(self, record: UpgradeRecord) -> None:
        """Become the new code. Returns only by an OSError."""
        app = self._app
        deps = app.deps
        deps.state.state.upgrade = record
        record.replaced = time.monotonic()
        await deps.pool.refresh()
        await deps.counters.shown()
        await deps.state.flush()
        variables = packed.pack(
            app.lock, app.api_sockets, {name: each.listeners for name, each in app.services.items()}, app.activated
        )
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
        try:
            for _ in range(_TURNS):  # a signal that had come before is heeded
                await trio.lowlevel.checkpoint()
            if app.is_stopping:
                raise StoppingError("the proxy was told to stop meanwhile")
            os.execve(sys.executable, self._command, {**os.environ, **app.manager_environment, **variables})  # noqa: S606
        finally:  # it did not come to that
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
            packed.withdraw(variables)
            deps.state.state.upgrade = None
            deps.state.changed()

    # After it.

    def resume(self, record: UpgradeRecord, began: float) -> None:
        """This is the new code of one that is under way; it `began` at that time of time.monotonic()."""
        self._record, self._phase, self._began = record, "adopt", began
        record.seconds["exec"] = round(began - record.replaced, 6)

    async def finish(self) -> None:
        """Give every worker a successor, of the new code."""
        app, record = self._app, self._record
        if record is None:
            return
        record.seconds["adopt"] = round(time.monotonic() - self._began, 6)
        for phase in ("exec", "adopt"):
            self._publish(phase=phase, state="end", seconds=record.seconds[phase])
        app.deps.state.state.upgrade = None
        app.deps.state.changed()
        error: ProxyError | None = None
        with self._phased("workers"):
            for index in range(app.deps.pool.count):
                try:
                    await self._relieve(index)
                except (ProxyError, OSError) as trouble:
                    error = trouble if isinstance(trouble, ProxyError) else UpgradeError(str(trouble))
                    log.error("worker was not relieved", extra=facts(worker=index, reason=error.message))
        if error:
            error = UpgradeError(
                f"control runs the new code, but not every worker does: {error.message}", hint=error.hint
            )
        self._end("failed" if error else "upgraded", __version__, error)

    async def _relieve(self, index: int) -> None:
        app = self._app
        relieved = await relief.relieve(app.deps.pool, index, app.nursery, app.longest_drain())
        self.pause = max(self.pause or 0.0, relieved.pause)
        app.deps.metrics.handed_over(relieved.carried)
        told = relieved.describe()
        self._relieved.append(told)
        self._publish(**told)

    # What is told of it.

    @contextmanager
    def _phased(self, name: str) -> Iterator[None]:
        assert self._record is not None  # noqa: S101 - one is under way
        self._phase = name
        began = trio.current_time()
        self._publish(phase=name, state="begin")
        try:
            yield
        finally:
            seconds = round(trio.current_time() - began, 6)
            self._record.seconds[name] = seconds
            self._publish(phase=name, state="end", seconds=seconds)

    def _end(self, result: str, release: str, error: ProxyError | None = None) -> None:
        record, self._record = self._record, None
        assert record is not None  # noqa: S101 - as above
        self.last = {
            "id": record.id,
            "kind": "upgrade",
            "result": result,
            "from": record.old,
            "to": release,
            "phases": record.seconds,
            "carried": sum(each["carried"] for each in self._relieved),
            "kept": sum(each["kept"] for each in self._relieved),
            "pause": max((each["pause"] for each in self._relieved), default=0.0),
            "workers": self._relieved,
            "error": error.message if error else None,
            "hint": error.hint if error else "",
            "output": list(error.output) if isinstance(error, UpgradeError) else [],
            "started": round(record.began, 3),
            "finished": round(time.time(), 3),
        }
        self._app.deps.metrics.upgraded(result)
        extra = facts(result=result, was=record.old, version=release, error=error.message if error else None)
        log.log(logging.ERROR if error else logging.INFO, "upgrade ended", extra=extra)
        self._app.deps.bus.publish("upgrade", id=record.id, result=self.last)

    def _publish(self, **values: Any) -> None:
        assert self._record is not None  # noqa: S101 - as above
        self._app.deps.bus.publish("upgrade", id=self._record.id, **values)


def _reason(lines: Sequence[str]) -> str:
    """What the new code says itself, behind its name; of a traceback, which it did not expect, the last line."""
    said = [line.removeprefix(_SAYS) for line in lines if line.startswith(_SAYS)]
    return said[0] if said else lines[-1].strip() if lines else ""
