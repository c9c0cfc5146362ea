"""Health over time: wait until a backend is healthy, then watch that it stays so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import trio

from proxy.control import ownership
from proxy.control.check import CheckResult, Subject, check
from proxy.core.duration import format_duration
from proxy.core.health import RiseFall
from proxy.errors import StartError

if TYPE_CHECKING:
    from proxy.config.settings import Health
    from proxy.control.exits import Exit
    from proxy.core.address import Address

FIRST_PACE = 0.05  # seconds between the first checks of a start
PACE_FACTOR = 1.5
OUTPUT_LINES = 20

_FORWARDED = 'if a container runtime (docker run -p, podman) forwards it, set `health.owner = "any"`'

Result = Literal["ok", "failed"]
OnCheck = Callable[[Result], None]
OnChange = Callable[[bool, str], None]
Probe = Callable[["Health", Subject], Awaitable[CheckResult]]


class Target(Protocol):
    """What can be checked: a Backend or an External."""

    @property
    def subject(self) -> Subject: ...

    async def exited(self) -> Exit: ...

    async def check_owner(self) -> str: ...

    async def refresh(self, *, move_on: bool) -> bool: ...

    def listens_on(self) -> tuple[Address, ...]: ...

    def tail(self, lines: int) -> tuple[str, ...]: ...


@runtime_checkable
class Speaking(Protocol):
    """A target that may have been given the public listener, and says itself when it is ready: a Backend."""

    @property
    def inherits(self) -> bool: ...

    @property
    def has_own_endpoint(self) -> bool: ...

    async def ready(self) -> None: ...

    def settle(self) -> None: ...

    def said(self) -> tuple[str, int]: ...


def _heir(target: Target) -> Speaking | None:
    return target if isinstance(target, Speaking) and target.inherits else None


def _waited_for(target: Target, health: Health) -> Speaking | None:
    """The target, where no check can reach it: whoever connects to the public listener may be answered by another."""
    heir = _heir(target)
    return heir if heir and not heir.has_own_endpoint and health.type in {"tcp", "http"} else None


def _ignore(_: Result) -> None:
    pass


async def wait_healthy(target: Target, health: Health, *, on_check: OnCheck = _ignore, probe: Probe = check) -> None:
    """Return once `rise` checks in a row have succeeded, and it is our own process that answers them.

    One that was given the public listener, and has no endpoint of its own where it could be checked, is healthy when it
    says READY=1 (sd_notify(3)), unless the health of the service is up to a command, or nobody.

    Raises StartError as soon as the process exits or a stranger answers, and at `start_timeout`; its `output` is what
    the process printed last. The process is not stopped: that is the caller's.
    """
    start = _Start(target, health, on_check, probe)
    heir = _heir(target)
    failure: StartError | None = None

    async def end_with_process() -> None:
        nonlocal failure
        failure = _exited(await target.exited())
        nursery.cancel_scope.cancel()

    with trio.move_on_after(health.start_timeout) as limit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_with_process)
            if heir:
                nursery.start_soon(heir.ready)  # also where nobody waits for it: what nobody reads, it could wait on
            # Raised inside a nursery, an error would come out of it as a group.
            try:
                await start.run()
            except StartError as error:
                failure = failure or error
            nursery.cancel_scope.cancel()
    if limit.cancelled_caught and not failure:
        failure = await trio.to_thread.run_sync(start.timed_out)
    if failure:
        failure.output = target.tail(OUTPUT_LINES)
        raise failure
    if heir:
        heir.settle()


class _Start:
    """The checks of one start, and what came of them."""

    def __init__(self, target: Target, health: Health, on_check: OnCheck, probe: Probe) -> None:
        self._target = target
        self._health = health
        self._on_check = on_check
        self._probe = probe
        self._failed = 0
        self._last = ""
        self._hint = ""

    async def run(self) -> None:
        """Return when it is healthy."""
        if heir := _waited_for(self._target, self._health):
            await heir.ready()
            return
        verdict = RiseFall(rise=self._health.rise, fall=1)
        owned = self._health.owner == "any" or self._health.type == "none" or _is_public(self._target)
        pace = FIRST_PACE
        while True:
            result = await self._check_once()
            if result.healthy and not owned:
                try:
                    reason = await self._target.check_owner()
                except OSError as error:
                    reason = _unseen(error)
                # A command may be content before anything listens; the other checks have spoken to someone.
                owned = not reason or self._health.type == "command"
                result = CheckResult(healthy=owned, reason=reason)
                self._hint = "" if owned else _FORWARDED
            self._count(result)
            verdict.record(ok=result.healthy)
            if verdict.healthy:
                return
            await trio.sleep(pace)
            pace = min(pace * PACE_FACTOR, self._health.interval)

    async def _check_once(self) -> CheckResult:
        """A name that cannot be looked up is a failed check like any other."""
        try:
            await self._target.refresh(move_on=self._failed > 0)
        except OSError as error:
            return CheckResult(healthy=False, reason=f"{self._target.subject.host}: {error.strerror}")
        return await self._probe(self._health, self._target.subject)

    def _count(self, result: CheckResult) -> None:
        self._on_check("ok" if result.healthy else "failed")
        if not result.healthy:
            self._failed += 1
            self._last = result.reason

    def timed_out(self) -> StartError:
        if heir := _waited_for(self._target, self._health):
            return _silent(heir, self._health)
        subject, health = self._target.subject, self._health
        what = f"GET {health.path}" if health.type == "http" else f"{health.type} check"
        times = "1 time" if self._failed == 1 else f"{self._failed} times"
        answers = f'{what} at {subject.address} failed {times}, last with "{self._last}"'
        if not self._failed:
            answers = f"{what} at {subject.address} had no answer"
        message = f"not healthy within {format_duration(health.start_timeout)}: {answers}"
        with suppress(OSError):
            # What is not a process of ours listens where we cannot see it.
            if isinstance(self._target, Speaking) and ownership.nobody(subject.address):
                elsewhere = self._target.listens_on()
                addresses = ", ".join(map(str, elsewhere)) or "no address at all"
                message += f"; nothing listens on {subject.address}; the process listens on {addresses}"
                if elsewhere:
                    placeholder = "{socket}" if subject.address.is_unix else "{port}"
                    return StartError(message, hint=f"does it use {placeholder}? The command has to pass it on")
        return StartError(message, hint=self._hint or "`health.start_timeout` gives it more time")


def _is_public(target: Target) -> bool:
    heir = _heir(target)
    return heir is not None and not heir.has_own_endpoint


def _silent(heir: Speaking, health: Health) -> StartError:
    status, stranger = heir.said()
    message = f"not ready within {format_duration(health.start_timeout)}: it has not said READY=1 on $NOTIFY_SOCKET"
    if status:
        message += f'; the last it said is STATUS "{status}"'
    if stranger:
        message += f"; pid {stranger} has, which is not, or no longer, part of the process tree that was started"
    return StartError(
        message,
        hint='one that does not speak sd_notify(3) needs `health.type = "command"`, or "none"; '
        "`health.start_timeout` gives it more time",
    )


def _unseen(error: OSError) -> str:
    return f"cannot see who listens: {error.strerror or error}"


def _exited(exit_: Exit) -> StartError:
    if exit_.is_clean:
        return StartError(
            "exited with status 0 before it was healthy",
            hint="did it daemonize? It has to run in the foreground",
        )
    return StartError(f"{exit_} before it was healthy")


async def watch(
    target: Target,
    health: Health,
    *,
    healthy: bool = True,
    on_change: OnChange,
    on_check: OnCheck = _ignore,
    probe: Probe = check,
) -> None:
    """Check a backend every `interval`, for ever; run it as a task and cancel it. `healthy` says how it begins.

    One that has nothing but the public listener is only checked by a command: of others, all that is known is that they
    live.

    `on_change(healthy, reason)` is called when `fall` failures in a row make it unhealthy, when `rise` successes make
    it healthy again, and, while it is healthy, when an external name has come to mean another address (look at
    `target.address`). `on_check` is called for every check.
    """
    if health.type == "none" or _waited_for(target, health):
        await trio.sleep_forever()
    verdict = RiseFall(rise=health.rise, fall=health.fall, healthy=healthy)
    while True:
        await trio.sleep(health.interval)
        result = await probe(health, target.subject)
        if result.healthy and not verdict.healthy and health.owner == "self" and not _is_public(target):
            result = await _owned(target, health)
        on_check("ok" if result.healthy else "failed")
        changed = verdict.record(ok=result.healthy)
        if not result.healthy:
            moved = await _refresh(target, health, move_on=not verdict.healthy)
            if moved and verdict.healthy:
                on_change(True, f"moved to {target.subject.address}")
        if changed:
            on_change(verdict.healthy, result.reason)


async def _owned(target: Target, health: Health) -> CheckResult:
    """After an outage, the one who answers may be another one."""
    try:
        reason = await target.check_owner()
    except StartError as error:
        return CheckResult(healthy=False, reason=error.message)
    except OSError as error:
        return CheckResult(healthy=False, reason=_unseen(error))
    return CheckResult(healthy=not reason or health.type == "command", reason=reason)


async def _refresh(target: Target, health: Health, *, move_on: bool) -> bool:
    """Look an external name up again; one that cannot be leaves everything as it is."""
    with trio.move_on_after(health.timeout):
        try:
            return await target.refresh(move_on=move_on)
        except OSError:
            pass
    return False
