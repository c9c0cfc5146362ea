"""A generation: one start of one version, its replicas kept running and checked until it is stopped."""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from proxy import wire
from proxy.control import backend as backends
from proxy.control import heritage, inheriting, listeners, prober
from proxy.control.backend import Backend
from proxy.control.external import External
from proxy.control.recipe import dump_recipe
from proxy.control.state import GenerationRecord
from proxy.core.backoff import Backoff
from proxy.errors import StartError
from proxy.logs import facts

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Mapping

    from proxy.config.settings import Service as Settings
    from proxy.config.settings import Version
    from proxy.control.deps import Deps
    from proxy.control.state import DepartureRecord
    from proxy.core.address import Address

log = logging.getLogger(__name__)

Target = Backend | External

# By how many seconds the clock may differ from what it was without having been set.
_SLEWED = 0.5
# What is left of a backend's stop_timeout when the proxy itself is told to stop at once.
_HURRIED_STOP = 1.0


@dataclass(eq=False)
class Replica:
    """One place in a generation. `target` is what runs there now; a restart may change its address."""

    index: int
    target: Target | None = None
    healthy: bool = False
    restarts: int = 0
    reason: str = "not started"
    launched: bool = False

    @property
    def address(self) -> Address | None:
        return self.target.address if self.target else None

    @property
    def backend(self) -> Backend | None:
        """The process, where it is one of ours."""
        return self.target if isinstance(self.target, Backend) else None

    def describe(self) -> dict[str, Any]:
        return {
            "replica": self.index,
            "pid": self.backend.pid if self.backend else None,
            "address": str(self.address) if self.address else None,
            "healthy": self.healthy,
            "restarts": self.restarts,
            "reason": "" if self.healthy else self.reason,
        }


@dataclass
class DrainProgress:
    """What `status` shows of a drain. `started` is a Unix time, `ends` a time of time.monotonic()."""

    started: float
    ends: float
    initial: int
    remaining: int
    forced: int = 0
    clock: float = field(default_factory=lambda: time.time() - time.monotonic())

    @property
    def deadline(self) -> float:
        """In Unix time; should the clock have been set since, by the new one."""
        clock = time.time() - time.monotonic()
        if abs(clock - self.clock) > _SLEWED:
            self.clock = clock
        return round(self.ends + self.clock, 3)

    def describe(self) -> dict[str, Any]:
        return {
            "started": self.started,
            "deadline": self.deadline,
            "initial": self.initial,
            "remaining": self.remaining,
            "forced": self.forced,
        }


class Generation:
    """Runs from `run` until `stop`.

    A *candidate* must become healthy once, all replicas of it, and any failure on the way is final: `ready` raises it.
    Once promoted, replicas that die are started again with growing pauses, and sick ones leave the rotation until they
    are well. While it is retired (draining or warm), replicas that die are gone.

    `inherits`: it accepts on the `public` listeners itself, which are keyed by address.
    """

    def __init__(
        self,
        number: int,
        settings: Settings,
        version: Version,
        deps: Deps,
        *,
        candidate: bool,
        public: Mapping[str, socket.socket],
    ) -> None:
        self.inherits = settings.datapath == "inherit"
        self._public = public
        self.id = number
        self.version = version
        self.settings = settings
        self.state = "starting"
        self.since = time.time()
        self.drain: DrainProgress | None = None
        self.replicas = [Replica(index) for index in range(len(version.address) or version.replicas)]
        self.on_change: Callable[[], None] = lambda: None
        self.ended = trio.Event()
        self._deps = deps
        self._candidate = candidate
        self._supervised = True
        self._signalled = False
        self._scope = trio.CancelScope()
        self._changed = trio.Event()
        self._failure: StartError | None = None
        self._trouble = ""
        self.proven = False
        self._lost: set[int] = set()  # replicas that ended while nobody looked
        self._hurry = False
        self._kill = False
        self._reconfigured = trio.Event()

    def adopt(self, record: GenerationRecord, in_rotation: Collection[str]) -> None:
        """Take over what runs of it, before `run`. Replicas `in_rotation`, by their addresses, go on as healthy ones;
        the others have to show it.
        """
        self._candidate = False
        self.state, self.since = record.state, record.since or self.since
        self._signalled = record.signalled
        self.inherits = record.inherits
        backends_by_place = {backend.replica: backend for backend in record.backends}
        for replica in self.replicas:
            replica.restarts = record.restarts.get(str(replica.index), 0)
            replica.launched, replica.reason = True, "was not healthy"
            if self.version.address:
                replica.target = External(self.settings, self.version, self.id, replica.index)
            elif found := backends_by_place.get(replica.index):
                replica.target = backends.adopt(
                    found, self.version, state_dir=self._deps.state_dir, ports=self._deps.ports
                )
            if replica.target is None:
                self._lost.add(replica.index)
                replica.reason = "ended while no control process was there"
            elif str(replica.address) in in_rotation:
                replica.healthy, replica.reason = True, ""
                self.proven = True
            if not replica.healthy:
                self._trouble = self._trouble or f"replica {replica.index}: {replica.reason}"

    def record(self, departure: DepartureRecord | None) -> GenerationRecord:
        """What has to be remembered of it."""
        return GenerationRecord(
            id=self.id,
            version=self.version.name,
            state=self.state,
            backends=[replica.backend.record for replica in self.replicas if replica.backend],
            since=self.since,
            recipe=dump_recipe(self.version),
            restarts={str(replica.index): replica.restarts for replica in self.replicas if replica.restarts},
            signalled=self._signalled,
            inherits=self.inherits,
            departure=departure,
        )

    # What others ask.

    @property
    def was_signalled(self) -> bool:
        """Whether its backends have been told to stop."""
        return self._signalled

    @property
    def endpoints(self) -> tuple[wire.Endpoint, ...]:
        """The replicas in rotation."""
        return tuple(
            wire.Endpoint(replica.index, str(replica.address))
            for replica in self.replicas
            if replica.healthy and replica.address
        )

    @property
    def revivable(self) -> bool:
        """Whether it could serve again at once: still running, healthy, and not told to leave."""
        return not self._signalled and not self._scope.cancel_called and bool(self.endpoints)

    async def launched(self) -> None:
        """Wait until every process runs (or ran). Raises StartError."""
        await self._until(lambda: all(replica.launched for replica in self.replicas))

    async def ready(self) -> None:
        """Wait until every replica is healthy. Raises StartError."""
        await self._until(lambda: all(replica.healthy for replica in self.replicas))

    def promote(self) -> None:
        """From now on it is kept alive. Raises StartError if it has fallen over already."""
        if self._failure:
            raise self._failure
        if not self.endpoints:
            raise StartError(f"no replica of generation {self.id} is healthy any more", output=self.last_output())
        self._candidate = False
        self._supervised = True
        self._trouble = ""
        self._poke()

    @property
    def in_trouble(self) -> bool:
        return bool(self._trouble)

    async def trouble(self) -> str:
        """Wait until a replica dies or falls sick, and say how."""
        while not self._trouble:
            await self._changed.wait()
        return self._trouble

    def retire(self) -> None:
        """Replicas that die from now on stay dead, unless the generation is promoted once more."""
        self._supervised = False

    def say_goodbye(self) -> None:
        """Send the stop signal now, so that the backend can end its own connections."""
        self._signalled = True
        for replica in self.replicas:
            if replica.backend:
                replica.backend.signal(self.settings.drain.stop_signal)

    async def died_out(self) -> None:
        """Wait until no replica of it runs."""
        while any(replica.target for replica in self.replicas):
            await self._changed.wait()

    async def stop(self) -> None:
        """Stop every process and wait until nothing of them is left."""
        self.set_state("stopping")
        self.retire()
        self._scope.cancel()
        await self.ended.wait()

    def kill_at_stop(self) -> None:
        """Its processes have been asked to end, and given the time for it."""
        self._kill = True

    def public_inodes(self) -> frozenset[int]:
        """What tells the public listeners among the sockets of any process."""
        return inheriting.inodes(each.fileno() for each in self._public.values() if each.fileno() >= 0)

    def listen_again(self) -> None:
        """See that its end has not ended the public listeners."""
        listeners.listen_again(self.settings.name, self._public)

    def public_addresses(self) -> tuple[Address, ...]:
        return tuple(heritage.address(each) for each in self._public.values() if each.fileno() >= 0)

    async def hurry(self) -> None:
        """Give the processes little time to end, also those that are being stopped already."""
        self._hurry = True
        if self._scope.cancel_called:
            async with trio.open_nursery() as nursery:
                for replica in self.replicas:
                    if replica.backend:
                        nursery.start_soon(replica.backend.stop, signal.SIGTERM, self._patience())

    def last_output(self, lines: int = 10) -> tuple[str, ...]:
        """The last lines that its backends printed, of those that have fallen over where some have."""
        running = [replica for replica in self.replicas if replica.backend]
        chosen = [replica for replica in running if not replica.healthy] or running
        return chosen[0].backend.tail(lines) if chosen and chosen[0].backend else ()

    def reconfigure(self, settings: Settings) -> None:
        """Take new settings; health checks begin anew with them where they differ."""
        differ = settings.health != self.settings.health
        self.settings = settings
        if differ:
            self._reconfigured.set()
            self._reconfigured = trio.Event()

    def set_state(self, state: str) -> None:
        self.state = state
        self.since = time.time()
        self._poke()

    def changed(self) -> None:
        """Something else of it did, that is to be remembered."""
        self._poke()

    def describe(self, counts: wire.GenerationCounts, *, knows_requests: bool) -> dict[str, Any]:
        """`in_flight` is None where requests are not understood: nobody knows how many there are."""
        return {
            "id": self.id,
            "version": self.version.name,
            "state": self.state,
            "connections": counts.active,
            "in_flight": counts.in_flight if knows_requests else None,
            "steered": counts.steered,
            "fallen_through": counts.fallen_through,
            "since": round(self.since, 3),
            "replicas": [replica.describe() for replica in self.replicas],
            "drain": self.drain.describe() if self.drain else None,
        }

    # Its own life.

    async def run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for replica in self.replicas:
                        nursery.start_soon(self._keep, replica)
        finally:
            self.ended.set()

    async def _keep(self, replica: Replica) -> None:
        backoff = Backoff()
        while True:
            began = trio.current_time()
            if replica.index in self._lost:
                self._lost.remove(replica.index)
                reason = replica.reason
            else:
                try:
                    reason = await self._live(replica)
                except (StartError, OSError) as error:
                    reason = self._report_failed_start(replica, error)
            self._out(replica, reason)
            if self._candidate:
                return
            if self._supervised:
                pause = backoff.next_delay(trio.current_time() - began)
                self._publish("backend", replica, state="restarting", reason=reason, delay=pause)
                await trio.sleep(pause)
            while not self._supervised:
                await self._changed.wait()
            replica.restarts += 1
            self._deps.metrics.restarted(self.settings.name, self.version.name)

    async def _live(self, replica: Replica) -> str:
        """Run one backend from start to end; returns how it ended."""
        target = replica.target or await self._start(replica)
        replica.target, replica.launched = target, True
        self._poke()
        is_over = False
        try:
            if not replica.healthy:
                await prober.wait_healthy(target, self.settings.health, on_check=self._checked)
            self._in(replica)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, replica, target)
                reason = str(await target.exited())
                self._out(replica, reason)
                nursery.cancel_scope.cancel()
            is_over = True
        except (StartError, OSError):
            is_over = True
            raise
        else:
            return reason
        finally:
            if is_over or self._scope.cancel_called or self._deps.ending.is_orderly:
                await self._clear(replica, target)

    async def _clear(self, replica: Replica, target: Target) -> None:
        """Stop what is left of a backend."""
        self._out(replica, "stopped")
        if isinstance(target, Backend):
            await target.stop(self.settings.drain.stop_signal, self._patience())
        replica.target = None
        self._poke()

    async def _start(self, replica: Replica) -> Target:
        if self.version.address:
            return External(self.settings, self.version, self.id, replica.index)
        deps = self._deps
        backend = await backends.start(
            self.settings,
            self.version,
            self.id,
            replica.index,
            state_dir=deps.state_dir,
            ports=deps.ports,
            troubles=deps.troubles,
            listeners=list(self._public.values()) if self.inherits else (),
        )
        self._publish("backend", replica, state="started", pid=backend.pid)
        return backend

    async def _watch(self, replica: Replica, target: Target) -> None:
        """Take the replica out of the rotation while it is sick; begin anew when the health settings change."""

        def changed(healthy: bool, reason: str) -> None:
            if healthy:
                self._in(replica)
            else:
                self._out(replica, reason)

        while True:
            reconfigured = self._reconfigured
            async with trio.open_nursery() as nursery:
                watch = partial(prober.watch, healthy=replica.healthy, on_change=changed, on_check=self._checked)
                nursery.start_soon(watch, target, self.settings.health)
                await reconfigured.wait()
                nursery.cancel_scope.cancel()

    def _patience(self) -> float:
        limit = 0.0 if self._kill else self.settings.drain.stop_timeout
        return min(limit, _HURRIED_STOP) if self._hurry else limit

    # What changed.

    def _in(self, replica: Replica) -> None:
        replica.healthy, replica.reason = True, ""
        self.proven = True
        self._publish("health", replica, state="healthy")
        self._poke()

    def _out(self, replica: Replica, reason: str) -> None:
        was_healthy, replica.healthy, replica.reason = replica.healthy, False, reason
        if not was_healthy:
            return
        if not self._scope.cancel_called:
            self._publish("health", replica, state="unhealthy", reason=reason)
            if not self._signalled:  # else it does what it was told to
                log.warning("replica left the rotation", extra=self._facts(replica, reason=reason))
            self._trouble = self._trouble or f"replica {replica.index}: {reason}"
        if self._candidate:
            message = f"replica {replica.index} was healthy, then fell over: {reason}"
            self._failure = StartError(message, output=self.last_output())
        self._poke()

    def _report_failed_start(self, replica: Replica, cause: StartError | OSError) -> str:
        if isinstance(cause, StartError):
            error = cause
        else:
            error = StartError(
                f"cannot run the backend: {cause.strerror or cause}", hint="`proxyctl doctor` may know why"
            )
        if self._candidate:
            self._failure = self._failure or error
        else:
            self._trouble = self._trouble or f"replica {replica.index}: {error.message}"
            extra = self._facts(replica, reason=error.message, hint=error.hint or None, output="\n".join(error.output))
            log.error("backend did not become healthy", extra=extra)
        self._poke()
        return error.message

    def _checked(self, result: prober.Result) -> None:
        self._deps.metrics.checked(self.settings.name, self.version.name, result)

    def _poke(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self.on_change()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._failure:
                raise self._failure
            await self._changed.wait()

    def _facts(self, replica: Replica, **more: Any) -> dict[str, Any]:
        return facts(
            service=self.settings.name, version=self.version.name, generation=self.id, replica=replica.index, **more
        )

    def _publish(self, kind: str, replica: Replica, **values: Any) -> None:
        self._deps.bus.publish(
            kind,
            service=self.settings.name,
            version=self.version.name,
            generation=self.id,
            replica=replica.index,
            **values,
        )
