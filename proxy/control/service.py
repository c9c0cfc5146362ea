"""A service: its listeners, its generations, and the one switch that decides where new connections go."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from proxy import wire
from proxy.control import adoption, decision, inheriting, listeners
from proxy.control.catalog import Catalog
from proxy.control.drain import Departure
from proxy.control.generation import Generation
from proxy.control.operations import Operations
from proxy.control.previous import Previous
from proxy.control.recipe import dump_recipe
from proxy.control.state import ServiceRecord
from proxy.core.caller import NOBODY
from proxy.errors import ConflictError
from proxy.logs import facts

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection

    from proxy.config.settings import Service as Settings
    from proxy.config.settings import Version
    from proxy.control.adoption import Verdict
    from proxy.control.deps import Deps
    from proxy.control.inherited import Inherited
    from proxy.control.operation import Operation
    from proxy.control.state import DepartureRecord, GenerationRecord, OperationRecord
    from proxy.core.address import Address
    from proxy.core.caller import Caller
    from proxy.core.requests import SwapRequest

Json = dict[str, Any]

log = logging.getLogger(__name__)

INHERITED = "inherited"  # who counts connections that backends accepted on the public listener
# How long a gone generation's series stay in /metrics, so that its last values are scraped.
SERIES_LIFETIME = 300.0
# Only at the very end of a service, and only while clients wait, so workers need not tell of each.
_LOOK_AGAIN = 0.05
# Between two looks whether an active backend has opened other sockets: a reload of its own (nginx, HAProxy) may do so.
_LOOK_FOR_SOCKETS = 1.0


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
        self._activated: set[str] = set()  # Unix sockets whose files are the service manager's
        self._hurried = False
        self._relays_because = ""  # why connections are not steered, where the config wants it
        self._has_steered = False  # or it is known why not
        self._departures: dict[int, Departure] = {}
        self._revived: dict[int, DepartureRecord] = {}
        self._before: Previous | None = None
        self.record = deps.state.state.services.setdefault(settings.name, ServiceRecord())
        self.catalog = Catalog(settings, self.record)
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
        if self._awaits_steering:
            return "starting"
        if self.paused:
            return "paused"
        if self.operations.starting:
            return "swapping"
        leaving = any(generation.state in ("draining", "stopping") for generation in self.generations.values())
        return "draining" if leaving else "serving"

    # Life.

    async def run(
        self, found: Verdict | None = None, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept on the listeners that `bind` opened and serve the version that is due, until cancelled.

        What was `found` running goes on: the active generation, what is leaving, and operations that have switched.
        """
        async with trio.open_nursery() as self._nursery:
            taken_over = adoption.take_over(self, found) if found else None
            if self.active is None:
                self._start_first()
            async with self._routing:
                # Who comes now waits for the first backend.
                await self._deps.pool.add(self._route(), self.listeners, accept=self._workers_accept)
                await self._steer(self.active)
                self._decide(self.active)
            if taken_over:  # only now is it known how many connections are left of what is leaving
                adoption.go_on(self, taken_over)
            self._nursery.start_soon(self._keep_routes)
            self._nursery.start_soon(self._look_for_sockets)
            task_status.started()
            await trio.sleep_forever()

    def bind(self, inherited: Inherited) -> None:
        """Take the public listeners that there are, and open the others. Raises what listeners.bind raises; then those
        that were opened stay so until `close_listeners`.
        """
        self._activated = inherited.activated
        for address in self.settings.listen:
            self.listeners[str(address)] = inherited.take(self.name, address) or self.open_listener(address)

    def open_listener(self, address: Address) -> socket.socket:
        return listeners.bind(address, blocking=self.settings.datapath == "inherit")

    def close_listeners(self) -> None:
        for address in self.settings.listen:
            if listener := self.listeners.pop(str(address), None):
                self._close_listener(address, listener)

    def _close_listener(self, address: Address, listener: socket.socket) -> None:
        listeners.close(address, listener, is_ours=str(address) not in self._activated)

    async def close(self) -> None:
        """Stop accepting, let every connection finish until the drain deadline, stop every process."""
        self.stopping = True
        self.operations.call_off()
        self._deps.steering.drop(self.name)
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

    def swap(self, request: SwapRequest, by: Caller = NOBODY) -> Operation:
        return self.operations.swap(self._nursery, request, by)

    def restart(self, *, deadline: float | None = None, by: Caller = NOBODY) -> Operation:
        return self.operations.restart(self._nursery, deadline, by)

    def rollback(self, *, deadline: float | None = None, by: Caller = NOBODY) -> Operation:
        return self.operations.rollback(self._nursery, deadline, by)

    async def pause(self, by: Caller = NOBODY) -> None:
        if not self._workers_accept:
            raise ConflictError(
                f"{self.name} cannot be paused: its backends accept on the public listener themselves",
                hint='`datapath = "relay"` or "steer" lets the proxy hold connections',
            )
        self._deps.audit.note("pause", by, service=self.name)
        self.paused = True
        await self._pause_changed()

    async def resume(self, by: Caller = NOBODY) -> None:
        self._deps.audit.note("resume", by, service=self.name)
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
        if settings.datapath != "steer":
            self._deps.steering.drop(self.name)
            self._relays_because = ""
        async with self._routing:
            await self._steer(self.active)
            self._decide(self.active)
        await self._listen()
        for address, listener in closing:
            self._close_listener(address, listener)
        async with self._routing:
            await self._deps.pool.route(self._route())
        if edited:
            self.record.configured = settings.active
            self.remember()

    # What a swap does with the service.

    def new_generation(self, version: Version, *, candidate: bool = True) -> Generation:
        number = self.record.next_generation
        self.record.next_generation = number + 1
        generation = Generation(number, self.settings, version, self._deps, candidate=candidate, public=self.listeners)
        return self._begin(generation)

    def adopt_generation(self, record: GenerationRecord, version: Version, in_rotation: Collection[str]) -> Generation:
        """Go on with one that an earlier control process started; see Generation.adopt."""
        generation = Generation(record.id, self.settings, version, self._deps, candidate=False, public=self.listeners)
        generation.adopt(record, in_rotation)
        return self._begin(generation)

    def _begin(self, generation: Generation) -> Generation:
        generation.on_change = self._generation_changed
        self.generations[generation.id] = generation
        self._deps.metrics.started(self.name, generation.version.name, generation.id)
        self._nursery.start_soon(self._live, generation)
        return generation

    async def switch(self, new: Generation, operation: Operation) -> Generation | None:
        """Send new connections to `new`, in one step on all workers; returns the generation that was active.

        Raises StartError, and changes nothing, if the new one fell over meanwhile.
        """
        await self.put_down()
        async with self._routing:
            old = await self._activate(new)
            operation.has_switched(old.id if old else 0, self.settings.drain.bake)
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
        """Only what has happened is put down, so that it is true whenever this process should end."""
        new.promote()
        new.drain = None
        await self._steer(new)
        if new.inherits and self._workers_accept:  # it does so already; they would hand to it what is for them
            await self._listen(accept=False)
        await self._deps.pool.switch(self._route(new), also=partial(self._decide, new))
        old, self.active = self.active, new
        if old and old.inherits and not new.inherits:
            await self._listen()
        self._revived.pop(new.id, None)
        new.set_state("active")
        self._tell_replaced()
        was = old.version.name if old else None
        log.info("switched", extra=facts(service=self.name, version=new.version.name, generation=new.id, was=was))
        return old

    @property
    def _workers_accept(self) -> bool:
        """A changed config takes effect with the next generation: this one was started as it was."""
        return not self.active.inherits if self.active else self.settings.datapath != "inherit"

    async def _listen(self, *, accept: bool | None = None) -> None:
        """Let the workers accept on the public listeners, or leave that to the backends.

        Whether the listeners block is not touched: all who have them share that, and some count on what they set.
        """
        accept = self._workers_accept if accept is None else accept
        await self._deps.pool.listen(self.name, self.listeners, accept=accept)

    async def _steer(self, generation: Generation | None) -> None:
        """Get the kernel ready to hand connections to the generation, where that is wanted and possible."""
        if self.settings.datapath != "steer" or self.stopping or (generation and generation.inherits):
            return
        steering = self._deps.steering
        addresses = [
            listeners.bound_address(address, self.listeners[str(address)])
            for address in self.settings.listen
            if str(address) in self.listeners
        ]
        reason = steering.take_up(self.name, addresses)
        if generation and not reason:
            reason = await steering.arrange(self.name, generation)
        if reason and reason != self._relays_because:
            log.warning("not steered; connections are relayed", extra=facts(service=self.name, reason=reason))
        self._relays_because = reason

    def _decide(self, generation: Generation | None) -> None:
        """Let the kernel hand new connections to the generation as it was arranged; while paused, to the workers."""
        self._deps.steering.switch(self.name, generation.id if generation and not self.paused else None)
        self._has_steered = self._has_steered or bool(generation and generation.endpoints)

    async def _look_for_sockets(self) -> None:
        while True:
            await trio.sleep(_LOOK_FOR_SOCKETS)
            if not self._workers_accept and not self.stopping:
                listeners.listen_again(self.name, self.listeners)
            if self.active and self._deps.steering.has_moved(self.name, self.active.id):
                self._route_changed.set()

    async def replaced(self, generation: Generation) -> None:
        """Wait until another generation is the active one."""
        while self.active is generation:
            await self._replaced.wait()

    def call_back(self, number: int) -> Generation | None:
        """Return a generation that is leaving but can still serve, with its departure called off; else None."""
        departure = self._departures.get(number)
        return departure.generation if departure and self.revive(departure) else None

    def revive(self, departure: Departure) -> bool:
        """Call a departure off, if the generation can still serve. Until it does, it is on file as one that leaves."""
        record = departure.record()
        if not departure.revive():
            return False
        if record:
            self._revived[departure.generation.id] = record
        return True

    def depart(self, generation: Generation, limit: float, operation: Operation | None) -> Departure:
        """Let a generation leave. Only the last one to leave is worth keeping warm: no rollback goes further back."""
        for earlier in self._departures.values():
            earlier.cool()
        return self._see_off(Departure(generation, limit, operation, self._deps))

    def resume_departure(
        self, generation: Generation, earlier: DepartureRecord, operation: Operation | None
    ) -> Departure:
        """Go on with one that an earlier control process began."""
        return self._see_off(Departure(generation, 0.0, operation, self._deps, earlier))

    def _see_off(self, departure: Departure) -> Departure:
        self._departures[departure.generation.id] = departure
        self._revived.pop(departure.generation.id, None)
        if self._hurried:
            departure.hurry()
        self._nursery.start_soon(self._stay_with, departure)
        return departure

    def has_ended(self, operation: OperationRecord) -> bool:
        """Whether its end is in the history; it was about to be forgotten."""
        return any(
            (entry.get("id"), entry.get("started")) == (operation.id, round(operation.began, 3))
            for entry in self._deps.history.of(self.name)
        )

    def go_on(self, operation: Operation, departure: Departure | None) -> None:
        """Go on with an operation that an earlier control process began."""
        self.operations.go_on(self._nursery, operation, departure)

    def stop_generation(self, generation: Generation) -> None:
        """Stop one that has no connections, in the background."""
        self._nursery.start_soon(generation.stop)

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
            "datapath": self.datapath,
            "datapath_configured": self.settings.datapath,
            "datapath_reason": self.datapath_reason,
            "state": self.state,
            "active": self.active.version.name if self.active else None,
            "versions": self.catalog.names,
            "previous": self.previous.version.name if self.previous else None,
            "deadline": self.settings.drain.deadline,
            "operation": self.operations.starting.describe() if self.operations.starting else None,
            "generations": [
                {
                    **generation.describe(
                        counts.get(generation.id, wire.GenerationCounts()),
                        knows_requests=self.settings.protocol == "http",
                    ),
                    "open": self._deps.steering.details(self.name, generation.id),
                }
                for generation in self.generations.values()
            ],
            "last_swap": self._deps.history.last(self.name),
        }

    @property
    def datapath(self) -> str:
        """The one that is in effect."""
        if not self._workers_accept:
            return "inherit"
        return "steer" if self.settings.datapath == "steer" and not self._relays_because else "relay"

    @property
    def datapath_reason(self) -> str:
        """Why it is not the configured one."""
        if self.datapath == self.settings.datapath:
            return ""
        version = self.active.version.name if self.active else "the active version"
        return self._relays_because or f"{version} was started otherwise; the next swap or restart changes it"

    @property
    def _awaits_steering(self) -> bool:
        """Who connects a moment too early stays with a worker for as long as the connection lives."""
        return self.settings.datapath == "steer" and not self._has_steered

    async def refresh(self) -> None:
        """Bring the counts of connections that no worker has up to date."""
        for generation in tuple(self.generations.values()):
            if generation.inherits:
                found = wire.GenerationCounts(active=await inheriting.count(generation))
                self._deps.pool.traffic.record(INHERITED, wire.Counts(self.name, 0, {}, {generation.id: found}))

    def not_ready(self) -> str:
        if self.stopping:
            return f"{self.name}: the proxy is stopping"
        if self.active and self.active.endpoints:
            return f"{self.name}: it is not steered yet" if self._awaits_steering else ""
        version = f" ({self.active.version.name})" if self.active else ""
        return f"{self.name}: no healthy active generation{version}"

    # How it works inside.

    def _start_first(self) -> None:
        if self.record.previous and (earlier := self.catalog.get(self.record.previous)):
            self.previous = Previous(0, earlier)
        version = self.catalog.first()
        self.active = self.new_generation(version, candidate=False)
        self.record.active, self.record.configured = version.name, self.settings.active
        self.remember()

    async def _live(self, generation: Generation) -> None:
        """One generation's whole life, and what is left to tidy up after it."""
        try:
            await generation.run()
        finally:
            if generation is not self.active and generation.state != "warm":
                self.generations.pop(generation.id, None)
            if not any(replica.target for replica in generation.replicas):
                self._forget_connections(generation)
            self._generation_changed()
        await trio.sleep(SERIES_LIFETIME)
        await self._deps.pool.forget(self.name, generation.id)
        self._deps.metrics.forget(self.name, generation.version.name, generation.id)

    async def _stay_with(self, departure: Departure) -> None:
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
                await self._steer(self.active)
                self._decide(self.active)
                await self._deps.pool.route(self._route())

    def _forget_connections(self, generation: Generation) -> None:
        """One that has ended has none any more."""
        self._deps.steering.forget(self.name, generation.id)
        if generation.inherits:
            nothing = wire.Counts(self.name, 0, {}, {generation.id: wire.GenerationCounts()})
            self._deps.pool.traffic.record(INHERITED, nothing)

    def _route(self, to: Generation | None = None) -> wire.Route:
        settings, active = self.settings, to or self.active
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
        self.remember()
        async with self._routing:
            if self.paused:  # else the kernel would hand on who is not to get through
                self._decide(self.active)
            await self._deps.pool.route(self._route())
            self._decide(self.active)
        state = "paused" if self.paused else "resumed"
        log.info(state, extra=facts(service=self.name))
        self._deps.bus.publish("service", service=self.name, state=self.state)

    async def _decided(self, version: str) -> None:
        """Record which version is to serve, also after a restart of the proxy.

        Shielded: it is too late to be called off, and the caller has the old generation to see off.
        """
        self.record.active = version
        with trio.CancelScope(shield=True):
            configured = await trio.to_thread.run_sync(decision.configured_active, self._deps.config_path, self.name)
            self.record.configured = configured or self.record.configured
            await self.put_down()

    async def put_down(self) -> None:
        """Bring the state file up to date, now: what is about to happen is only understood by what it says."""
        self.remember()
        await self._deps.state.flush()

    def remember(self) -> None:
        """Bring the state file up to date with what runs, soon."""
        record = self.record
        record.paused = self.paused
        record.previous = self.previous.version.name if self.previous else None
        record.previous_generation = self.previous.generation if self.previous else 0
        record.previous_recipe = dump_recipe(self.previous.version) if self.previous else {}
        record.generations = [self._recorded(generation) for generation in self.generations.values()]
        record.operations = self.operations.records()
        self._deps.state.changed()

    def _recorded(self, generation: Generation) -> GenerationRecord:
        departure = self._departures.get(generation.id)
        record = departure.record() if departure else None
        return generation.record(record or self._revived.get(generation.id))
