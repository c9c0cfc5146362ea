"""What an earlier control process left running, and what it is for.

Whenever control starts, it looks for workers and backends that run, and takes over what it finds: nothing, at a first
start; everything, after a crash and in an upgrade. What is true is looked up where it happens: the generation that new
connections go to is the one that the workers send them to, whatever the state file says. `judge` decides, and touches
nothing; a service carries it out (service.py).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.control.previous import Previous
from proxy.control.recipe import read_recipe
from proxy.control.record import Record
from proxy.control.state import DepartureRecord, GenerationRecord
from proxy.core.address import Address
from proxy.errors import ProxyError
from proxy.kernel import procfs
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy import wire
    from proxy.config.settings import Version
    from proxy.control.generation import Generation
    from proxy.control.mark import Marked
    from proxy.control.service import Service
    from proxy.control.state import OperationRecord, ServiceRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Serves:
    """What the workers that run do for a service: the `routes` they follow, and how many `connections` they have of
    each generation.
    """

    routes: list[wire.Route] = field(default_factory=list)
    connections: dict[int, int] = field(default_factory=dict)

    @property
    def route(self) -> wire.Route | None:
        """The one to a generation. All workers follow routes to the same one, because a switch is one step for all of
        them (wire.Hold); where a stop was under way, some may follow a route to none.
        """
        followed = [route for route in self.routes if route.generation]
        return max(followed, key=lambda each: each.generation, default=None)


@dataclass(frozen=True)
class Verdict:
    """What becomes of a service's generations. `ending` are only to be stopped: no connection was ever sent to them, or
    none is left.

    `switched` are operations that had got as far as the switch, and go on; `broken_off` never will.
    """

    active: GenerationRecord | None
    route: wire.Route | None
    leaving: list[GenerationRecord] = field(default_factory=list)
    ending: list[GenerationRecord] = field(default_factory=list)
    switched: list[OperationRecord] = field(default_factory=list)
    broken_off: list[OperationRecord] = field(default_factory=list)

    @property
    def generations(self) -> list[GenerationRecord]:
        active = [self.active] if self.active else []
        return [*active, *self.leaving, *self.ending]


def judge(record: ServiceRecord, serves: Serves) -> Verdict:
    """Return what to do with what runs of a service."""
    active = _active(record, serves.route)
    leaving, ending = [], []
    for generation in record.generations:
        if generation is active or not (is_running(generation) or _is_elsewhere(generation)):
            continue
        departing = _departing(generation, record.operations)
        if departing:
            leaving.append(departing)
        else:
            ending.append(generation)
    switched = [each for each in record.operations if _has_switched(each, active)]
    broken_off = [each for each in record.operations if each not in switched]
    return Verdict(active, serves.route, leaving, ending, switched, broken_off)


def is_running(generation: GenerationRecord) -> bool:
    """Whether any process of it does."""
    return any(procfs.is_running(backend.identity) for backend in generation.backends)


def _is_elsewhere(generation: GenerationRecord) -> bool:
    return bool(generation.recipe.get("address"))


def _active(record: ServiceRecord, route: wire.Route | None) -> GenerationRecord | None:
    """The generation that the workers send connections to; without workers, the one on record, if it still runs."""
    if route is not None:
        return next((each for each in record.generations if each.id == route.generation), None)
    serving = [
        each for each in record.generations if each.state == "active" and (is_running(each) or _is_elsewhere(each))
    ]
    # There are two where one has just taken over from the other.
    left = {each.generation if each.undone else each.old for each in record.operations}
    return next((each for each in serving if each.id not in left), serving[0] if serving else None)


def _departing(generation: GenerationRecord, operations: Iterable[OperationRecord]) -> GenerationRecord | None:
    """The record of a generation that connections may be left of: one that drains or is warm, and the one that was
    active when new connections were sent to another.
    """
    if generation.state in ("draining", "warm") and generation.departure:
        return generation
    if generation.state != "active":
        return None
    operation = max(operations, key=lambda each: each.id, default=None)
    limit = operation.drain_limit if operation else 0.0
    return _draining(generation, limit, operation.id if operation else None)


def _draining(generation: GenerationRecord, limit: float, operation: int | None = None) -> GenerationRecord:
    """The record of one that drains, from now on."""
    departure = DepartureRecord(began=time.time(), deadline=time.monotonic() + limit, initial=0, operation=operation)
    return generation.model_copy(update={"state": "draining", "departure": departure})


def _has_switched(operation: OperationRecord, active: GenerationRecord | None) -> bool:
    """Whether it had sent connections to its generation: it says so, or they go there, also where its generation is so
    new that the file does not know it.
    """
    if operation.old is not None or active is None:
        return operation.old is not None
    is_unknown = operation.generation is None and not active.recipe and active.version == operation.target
    return operation.generation == active.id or is_unknown


def complete(record: ServiceRecord, serves: Serves, marked: Iterable[Marked], drain_limit: float) -> None:
    """Add to a record what runs and is not in it: the file was lost, or older than the last things that happened.

    A generation that nobody knows, and that connections are left of, drains for `drain_limit` seconds.
    """
    route = serves.route
    in_use = [*(each.generation for each in serves.routes), *serves.connections]
    known = {each.id: each for each in record.generations}
    for found in sorted(marked, key=lambda each: each.process.start_time):
        number = found.mark.generation
        if number not in known and number in in_use and found.version:
            known[number] = GenerationRecord(id=number, version=found.version, state="active", since=time.time())
        if generation := known.get(number):
            _put(generation, found, route)
    if route and route.generation not in known:  # it is elsewhere, or all of its processes are gone
        known[route.generation] = GenerationRecord(
            id=route.generation, version=route.version, state="active", since=time.time()
        )
    unheard_of = known.keys() - {each.id for each in record.generations}
    active = route.generation if route else 0
    record.generations += [
        known[number] if number == active else _draining(known[number], drain_limit) for number in unheard_of
    ]
    record.next_generation = max([record.next_generation, *(number + 1 for number in (*known, *in_use))])


def _put(generation: GenerationRecord, found: Marked, route: wire.Route | None) -> None:
    """Put a process that was found in its place, unless a record of it, or of another one that runs, is there."""
    replica = found.mark.replica
    there = [each for each in generation.backends if each.replica == replica]
    if any(procfs.is_running(each.identity) for each in there):
        return
    endpoints = route.endpoints if route and route.generation == generation.id else ()
    heard = next((each.address for each in endpoints if each.replica == replica), "")
    address = f"127.0.0.1:{found.port}" if found.port else heard
    if address:
        backend = Record.of(found.mark, generation.version, found.process, Address.parse(address), found.port)
        generation.backends = [each for each in generation.backends if each.replica != replica] + [backend]


# Carrying it out.


@dataclass(frozen=True)
class TakenOver:
    """The generations that are leaving, with how far they have got, and the operations that go on."""

    leaving: list[tuple[Generation, DepartureRecord]]
    switched: list[OperationRecord]


def take_over(service: Service, found: Verdict) -> TakenOver:
    """Go on with what was found of a service. It has no active generation afterwards if none was found, or if nobody
    knows any more how that is run.
    """
    service.previous = _previous(service, service.record)
    switched = [each for each in found.switched if not service.has_ended(each)]
    for operation in switched:
        if operation.old is None:
            _catch_up(service, operation, found)
    serving = _take_over_active(service, found)
    leaving = []
    for generation in found.leaving:
        recipe = _version(service, generation)
        if recipe and generation.departure:
            adopted = service.adopt_generation(generation, recipe, _addresses(generation))
            leaving.append((adopted, generation.departure))
    for generation in found.ending:
        if recipe := _version(service, generation):
            service.stop_generation(service.adopt_generation(generation, recipe, ()))
    service.generations = dict(sorted(service.generations.items()))
    for operation in found.broken_off:
        if not service.has_ended(operation):
            service.operations.break_off(operation, _interrupted(operation, serving))
    return TakenOver(leaving, switched)


def _catch_up(service: Service, operation: OperationRecord, found: Verdict) -> None:
    """Put down the switch of an operation, which had happened but was not on file."""
    old = next((each for each in found.leaving if each.departure and each.departure.operation == operation.id), None)
    operation.old = old.id if old else 0
    if bake := service.settings.drain.bake:
        operation.baked_until = time.monotonic() + bake
    if old and (version := _version(service, old)):
        service.previous = Previous(old.id, version)
    service.record.configured = service.settings.active


def _take_over_active(service: Service, found: Verdict) -> str:
    """Return the name of the version."""
    active, route = found.active, found.route
    if active is None:
        return ""
    version = _version(service, active)
    if version is None:
        extra = facts(service=service.name, version=active.version, generation=active.id)
        log.error("the active generation cannot be taken over, because its recipe is lost; replacing it", extra=extra)
        return ""
    service.paused = route.paused if route else service.record.paused
    rotation = [each.address for each in route.endpoints] if route else _addresses(active)
    generation = service.active = service.adopt_generation(active, version, rotation)
    if generation.state != "starting" or rotation:
        generation.state = "active"
    service.record.active = version.name
    log.info("taken over", extra=facts(service=service.name, version=version.name, generation=active.id))
    return version.name


def go_on(service: Service, taken_over: TakenOver) -> None:
    """Let drains and operations go on."""
    operations = {each.id: service.operations.continued(each) for each in taken_over.switched}
    departures = {}
    for generation, earlier in taken_over.leaving:
        operation = operations.get(earlier.operation or 0)
        departure = service.resume_departure(generation, earlier, operation)
        if operation:
            departures[operation.id] = departure
        else:
            departure.release()
    for number, operation in operations.items():
        service.go_on(operation, departures.get(number))


def _interrupted(operation: OperationRecord, serving: str) -> ProxyError:
    served = f"; {serving} served on" if serving else ""
    return ProxyError(
        f"the control process ended during the {operation.kind}, in phase {operation.phase}, before the switch; "
        f"{operation.target} was stopped{served}",
        hint=f"`proxyctl {operation.kind}` once more",
    )


def _version(service: Service, record: GenerationRecord) -> Version | None:
    """The recipe as it was started with, or else what is known of a version of that name."""
    return (read_recipe(record.recipe) if record.recipe else None) or service.catalog.get(record.version)


def _previous(service: Service, record: ServiceRecord) -> Previous | None:
    if not record.previous:
        return None
    recipe = read_recipe(record.previous_recipe) if record.previous_recipe else None
    version = recipe or service.catalog.get(record.previous)
    return Previous(record.previous_generation, version) if version else None


def _addresses(generation: GenerationRecord) -> list[str]:
    """Where its replicas are, those that are elsewhere included."""
    elsewhere = generation.recipe.get("address") or []
    return [*(backend.address for backend in generation.backends), *map(str, elsewhere)]
