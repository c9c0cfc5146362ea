"""What the API needs of the control process. `proxy.main` passes the real one in; nothing here imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import trio

    from proxy.core.caller import Caller
    from proxy.core.requests import SwapRequest

Json = dict[str, Any]


class Operation(Protocol):
    """A swap, rollback or restart that was accepted and runs on, whoever waits for it."""

    @property
    def id(self) -> int: ...

    def describe(self) -> Json:
        """`{"id", "service", "kind", "from", "to", "generation", "phase", "started", "by"}`."""
        ...

    async def wait(self) -> Json:
        """Wait for the end: `{"service", "from", "to", "result", "phases", "drained", "forced", "error"}` with `kind`
        (swap, rollback, restart), `hint` and `output` (the backend's last lines) beside the keys of the contract.
        """
        ...


class Control(Protocol):
    """Every method raises ProxyError subclasses for what a user can get wrong."""

    async def status(self) -> Json: ...

    async def service_status(self, service: str) -> Json: ...

    async def swap(self, service: str, request: SwapRequest, by: Caller) -> Operation: ...

    async def rollback(self, service: str, by: Caller, *, deadline: float | None = None) -> Operation: ...

    async def restart(self, service: str, by: Caller, *, deadline: float | None = None) -> Operation: ...

    async def pause(self, service: str, by: Caller) -> None: ...

    async def resume(self, service: str, by: Caller) -> None: ...

    async def reload(self, by: Caller) -> Json:
        """`{"changes": [str], "warnings": [str]}`; ConfigError when the file is not valid, and then nothing changed."""
        ...

    async def upgrade(self, by: Caller) -> Json:
        """Begin an upgrade: `{"id", "from", "started"}`. It runs on; its end is told by an event and in the status.

        Raises UpgradeInProgressError, SwapInProgressError where an operation has not switched yet, StoppingError.
        """
        ...

    def stop(self, by: Caller, *, now: bool = False) -> None:
        """Begin the stop; the process exits when it is through."""
        ...

    def history(self, service: str | None = None, *, limit: int = 100) -> Sequence[Json]:
        """Newest last: an operation's result with `kind`, `generation`, `by`, `started` and `finished` (Unix time)."""
        ...

    def actions(self, service: str | None = None, *, limit: int = 100) -> Sequence[Json]:
        """What was asked for, newest last: `time`, `action`, `service` (None: the proxy), `by` and more."""
        ...

    def output_files(self, service: str, version: str) -> Sequence[Path]:
        """The files that hold what the version's backends printed, oldest first; rotated ones (`….log.1`) before."""
        ...

    def output_directory(self, service: str, version: str) -> Path: ...

    def events(self) -> AbstractContextManager[trio.MemoryReceiveChannel[Json]]:
        """Every event from now on. The channel closes when the proxy stops or the reader falls 1,000 behind.

        Each has `type`, `time` and mostly `service`. Those of an operation have `operation` (its id):
        `phase` (`phase`: start, health, switch, drain, stop or bake; `state`: begin or end; `seconds` at the end),
        `drain` (`generation`, `version`, `initial`, `remaining`, `deadline`), and one `result` at the end (`result`:
        the object that `Operation.wait` returns). Others: `backend` (started, exited, restarting), `health`, `worker`,
        `service` (state), `action` (what somebody asked for), `reload`, `stop`, and `upgrade` with the `id` of one: a
        `phase` (check, exec, adopt, workers) with `state` and `seconds` as above; a `worker` that was replaced (`old`,
        `new`, `carried`, `kept`, `pause`); or the `result` at the end. Between exec and adopt the stream breaks, since
        control becomes another program.
        """
        ...

    async def metrics(self, *, openmetrics: bool) -> tuple[bytes, str]:
        """The body and its content type."""
        ...

    def not_ready(self) -> Sequence[str]:
        """Why /readyz says 503, a sentence each; empty when ready."""
        ...
