"""A service: its listeners, its generations, and the one switch that decides where new connections go."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from proxy import wire
from proxy.control import decision, listeners
from proxy.control.catalog import Catalog
from proxy.control.drain import Departure
from proxy.control.generation import Generation
from proxy.control.operations import Operations
from proxy.control.state import GenerationRecord, ServiceRecord
from proxy.errors import (
    ProxyError,
)
from proxy.logs import facts

if TYPE_CHECKING:
    import socket

    from proxy.config.settings import Service as Settings
    from proxy.config.settings import Version
    from proxy.control.deps import Deps
    from proxy.control.operation import Operation
    from proxy.core.requests import SwapRequest

Json = dict[str, Any]

log = logging.getLogger(__name__)

# How long a gone generation's series stay in /metrics, so that its last values are scraped.
SERIES_LIFETIME = 300.0
# Only at the very end of a service, and only while clients wait, so workers need not tell of each.
_LOOK_AGAIN = 0.05


@dataclass(frozen=True)
class Previous:
    """The generation that was active before; its recipe is kept in case the config no longer has it."""

    generation: int
    version: Version


class Service:
    """Lives from `run` until its task is cancelled; `close` is the graceful end before that."""

    def __init__(self, settings: Settings, deps: Deps) -> None:
        self.settings = settings
        self.active: Generation | None = None
        self.generations: dict[int, Generation] = {}
        self.previous: Previous | None = None
        self.paused = False
        self.stopping = False
        self.removed = False  # by a reload, while the proxy goes on
        self.listeners: dict[str, socket.socket] = {}
        self._deps = deps
        self._hurried = False
        self._departures: dict[int, Departure] = {}
        self._before: Previous | None = None
        self._record = deps.state.state.services.setdefault(settings.name, ServiceRecord())
        self.catalog = Catalog(settings, self._record)
        self.operations = Operations(self, deps)
        self._routing = trio.Lock()
        self._route_changed = trio.Event()
        self._replaced = trio.Event()

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def state(self) -> str:
        if self.stopping:
            return "draining"
        if self.active is None or not self.active.endpoints:
            starting = self.active is None or not (self.active.proven or self.active.in_trouble)
            return "starting" if starting else "down"
        if self.paused:
            return "paused"
        if self.operations.starting:
            return "swapping"
        leaving = any(generation.state in ("draining", "stopping") for generation in self.generations.values())
        return "draining" if leaving else "serving"

    # Life.

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept on the listeners that `bind` opened and serve the version that is due, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._start_first()
            async with self._routing:
                await self._deps.pool.add(self._route(), self.listeners)  # who comes now waits for the first backend
            self._nursery.start_soon(self._keep_routes)
            task_status.started()
            await trio.sleep_forever()

    def bind(self) -> None:
        """Open the public listeners. Raises what listeners.bind raises; then none stays open."""
        try:
            for address in self.settings.listen:
                self.listeners[str(address)] = listeners.bind(address)
        except ProxyError:
            self.close_listeners()
            raise

    def close_listeners(self) -> None:
        for address in self.settings.listen:
            if listener := self.listeners.pop(str(address), None):
                listeners.close(address, listener)

    async def close(self) -> None:
        """Stop accepting, let every connection finish until the drain deadline, stop every process."""
        self.stopping = True
        self.operations.call_off()
        await self._deps.pool.listen(self.name, {})
        self.close_listeners()
        await self.operations.settled()
        await self._let_in()
        async with self._routing:
            active, self.active = self.active, None
            await self._deps.pool.route(self._route())
        self._tell_replaced()
        if active and active.id not in self._departures:
            self.depart(active, self.settings.drain.deadline, None).release()
        for departure in self._departures.values():
            departure.release()
            departure.cool()
        async with trio.open_nursery() as nursery:
            for departure in tuple(self._departures.values()):
                nursery.start_soon(departure.gone.wait)
            for generation in tuple(self.generations.values()):
                if generation.id not in self._departures:
                    nursery.start_soon(generation.stop)
            nursery.start_soon(self.operations.finished)

    async def _let_in(self) -> None:
        """Give the clients that were accepted, but have no backend yet, the time to get one; a pause ends with that."""
        self.paused = False
        async with self._routing:
            await self._deps.pool.route(self._route())
        with trio.move_on_after(0 if self._hurried else self.settings.connect_timeout):
            while True:
                await self._deps.pool.refresh()
                if not self._deps.pool.traffic.of(self.name).waiting:
                    return
                await trio.sleep(_LOOK_AGAIN)

    def end(self) -> None:
        """Leave `run`; for a service that was closed."""
        self._nursery.cancel_scope.cancel()

    def hurry(self) -> None:
        """Cut a graceful end short."""
        self._hurried = True
        for generation in self.generations.values():
            self._nursery.start_soon(generation.hurry)
        for departure in self._departures.values():
            departure.hurry()

    # Requests.

    def swap(self, request: SwapRequest) -> Operation:
        return self.operations.swap(self._nursery, request)

    def restart(self, *, deadline: float | None = None) -> Operation:
        return self.operations.restart(self._nursery, deadline)

    def rollback(self, *, deadline: float | None = None) -> Operation:
        return self.operations.rollback(self._nursery, deadline)

    async def pause(self) -> None:
        self.paused = True
        await self._pause_changed()

    async def resume(self) -> None:
        self.paused = False
        await self._pause_changed()

    async def reconfigure(self, settings: Settings, opened: dict[str, socket.socket]) -> None:
        """Take new settings. `opened` holds the listeners of addresses that are new; those that are gone are closed."""
        gone = [address for address in self.settings.listen if address not in settings.listen]
        closing = [(address, self.listeners.pop(str(address))) for address in gone]
        self.listeners.update(opened)
        edited = settings.active != self.settings.active
        self.settings = self.catalog.settings = settings
        for generation in self.generations.values():
            generation.reconfigure(settings)
        await self._deps.pool.listen(self.name, self.listeners)
        for address, listener in closing:
            listeners.close(address, listener)
        async with self._routing:
            await self._deps.pool.route(self._route())
        if edited:
            self._record.configured = settings.active
            self.remember()

    # What a swap does with the service.

    def new_generation(self, version: Version, *, candidate: bool = True) -> Generation:
        number = self._record.next_generation
        self._record.next_generation = number + 1
        generation = Generation(number, self.settings, version, self._deps, candidate=candidate)
        generation.on_change = self._generation_changed
        self.generations[number] = generation
        self._deps.metrics.started(self.name, version.name, number)
        self._nursery.start_soon(self._live, generation)
        return generation

    async def switch(self, new: Generation) -> Generation | None:
        """Send new connections to `new`, in one step on all workers; returns the generation that was active.

        Raises StartError, and changes nothing, if the new one fell over meanwhile.
        """
        async with self._routing:
            old = await self._activate(new)
        if old:
            self._before, self.previous = self.previous, Previous(old.id, old.version)
        await self._decided(new.version.name)
        return old

    async def undo(self, failed: Generation, old: Generation) -> bool:
        """Send new connections back to `old`; False, and nothing changed, if another switch or the end came first.

        Raises StartError if the old one has fallen over too.
        """
        async with self._routing:
            if self.active is not failed or self.stopping:
                return False
            await self._activate(old)
        self.previous = self._before
        await self._decided(old.version.name)
        return True

    async def _activate(self, new: Generation) -> Generation | None:
        new.promote()
        old, self.active = self.active, new
        new.drain = None
        new.set_state("active")
        await self._deps.pool.switch(self._route())
        self._tell_replaced()
        was = old.version.name if old else None
        log.info("switched", extra=facts(service=self.name, version=new.version.name, generation=new.id, was=was))
        return old

    async def replaced(self, generation: Generation) -> None:
        """Wait until another generation is the active one."""
        while self.active is generation:
            await self._replaced.wait()

    def call_back(self, number: int) -> Generation | None:
        """Return a generation that is leaving but can still serve, with its departure called off; else None."""
        departure = self._departures.get(number)
        return departure.generation if departure and departure.revive() else None

    def depart(self, generation: Generation, limit: float, operation: Operation | None) -> Departure:
        """Let a generation leave. Only the last one to leave is worth keeping warm: no rollback goes further back."""
        for earlier in self._departures.values():
            earlier.cool()
        departure = Departure(generation, limit, operation, self._deps)
        self._departures[generation.id] = departure
        if self._hurried:
            departure.hurry()
        self._nursery.start_soon(self._see_off, departure)
        return departure

    # Reports.

    def describe(self) -> Json:
        counts = self._deps.pool.traffic.of(self.name).generations
        return {
            "listen": [
                str(listeners.bound_address(address, self.listeners[str(address)]))
                for address in self.settings.listen
                if str(address) in self.listeners
            ],
            "protocol": self.settings.protocol,
            "datapath": self.settings.datapath,
            "state": self.state,
            "active": self.active.version.name if self.active else None,
            "versions": self.catalog.names,
            "operation": self.operations.starting.describe() if self.operations.starting else None,
            "generations": [
                generation.describe(
                    counts.get(generation.id, wire.GenerationCounts()), knows_requests=self.settings.protocol == "http"
                )
                for generation in self.generations.values()
            ],
            "last_swap": self._deps.history.last(self.name),
        }

    def not_ready(self) -> str:
        if self.stopping:
            return f"{self.name}: the proxy is stopping"
        if self.active and self.active.endpoints:
            return ""
        version = f" ({self.active.version.name})" if self.active else ""
        return f"{self.name}: no healthy active generation{version}"

    # How it works inside.

    def _start_first(self) -> None:
        if self._record.previous and (earlier := self.catalog.get(self._record.previous)):
            self.previous = Previous(0, earlier)
        version = self.catalog.first()
        self.active = self.new_generation(version, candidate=False)
        self._record.active, self._record.configured = version.name, self.settings.active
        self.remember()

    async def _live(self, generation: Generation) -> None:
        """One generation's whole life, and what is left to tidy up after it."""
        try:
            await generation.run()
        finally:
            if generation is not self.active and generation.state != "warm":
                self.generations.pop(generation.id, None)
            self._generation_changed()
        await trio.sleep(SERIES_LIFETIME)
        await self._deps.pool.forget(self.name, generation.id)
        self._deps.metrics.forget(self.name, generation.version.name, generation.id)

    async def _see_off(self, departure: Departure) -> None:
        await departure.run()
        generation = departure.generation
        if self._departures.get(generation.id) is departure:
            del self._departures[generation.id]
        if not departure.revived:
            self.generations.pop(generation.id, None)
        self._generation_changed()

    def _generation_changed(self) -> None:
        self._route_changed.set()
        active = self.active
        if active and active.state == "starting" and active.endpoints:
            active.set_state("active")
            log.info("serving", extra=facts(service=self.name, version=active.version.name, generation=active.id))
        self.remember()
        self._deps.bus.publish("service", service=self.name, state=self.state)

    async def _keep_routes(self) -> None:
        """Tell the workers whenever the replicas in rotation change."""
        while True:
            await self._route_changed.wait()
            self._route_changed = trio.Event()
            async with self._routing:
                await self._deps.pool.route(self._route())

    def _route(self) -> wire.Route:
        settings, active = self.settings, self.active
        return wire.Route(
            seq=0,
            service=self.name,
            generation=active.id if active else 0,
            endpoints=active.endpoints if active else (),
            paused=self.paused,
            balance=settings.balance,
            connect_timeout=settings.connect_timeout,
            idle_timeout=settings.idle_timeout,
            max_connections=settings.max_connections or None,
            version=active.version.name if active else "",
            http=wire.Http(**settings.http.model_dump()) if settings.protocol == "http" else None,
        )

    def _tell_replaced(self) -> None:
        self._replaced.set()
        self._replaced = trio.Event()

    async def _pause_changed(self) -> None:
        async with self._routing:
            await self._deps.pool.route(self._route())
        state = "paused" if self.paused else "resumed"
        log.info(state, extra=facts(service=self.name))
        self._deps.bus.publish("service", service=self.name, state=self.state)

    async def _decided(self, version: str) -> None:
        """Record which version is to serve, also after a restart of the proxy.

        Shielded: it is too late to be called off, and the caller has the old generation to see off.
        """
        self._record.active = version
        self._record.previous = self.previous.version.name if self.previous else None
        with trio.CancelScope(shield=True):
            configured = await trio.to_thread.run_sync(decision.configured_active, self._deps.config_path, self.name)
            self._record.configured = configured or self._record.configured
            self.remember()
            await self._deps.state.flush()

    def remember(self) -> None:
        """Bring the state file up to date with what runs, soon."""
        self._record.generations = [
            GenerationRecord(
                id=generation.id,
                version=generation.version.name,
                state=generation.state,
                backends=[replica.backend.record for replica in generation.replicas if replica.backend],
            )
            for generation in self.generations.values()
        ]
        self._deps.state.changed()
