"""What a control process makes of what it finds: pure logic, over records, routes and a played process table."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import wire
from proxy.control import adoption
from proxy.control.adoption import Serves, complete, judge
from proxy.control.mark import Mark, Marked
from proxy.control.record import Record
from proxy.control.state import DepartureRecord, GenerationRecord, OperationRecord, ServiceRecord
from proxy.kernel.procfs import ProcessId

DEADLINE = 30.0


@dataclass
class Table:
    """The processes that run, by pid."""

    pids: set[int] = field(default_factory=set)

    def is_running(self, identity: ProcessId) -> bool:
        return identity.pid in self.pids


TABLE = Table()


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setattr(adoption.procfs, "is_running", TABLE.is_running)
    TABLE.pids = set()
    return TABLE


def pid_of(generation: int, replica: int = 0) -> int:
    return 1000 * generation + replica + 2


def backend(generation: int, replica: int = 0, **values: Any) -> Record:
    known: dict[str, Any] = {
        "service": "web",
        "version": f"v{generation}",
        "generation": generation,
        "replica": replica,
        "pid": pid_of(generation, replica),
        "start_time": 10 * generation,
        "address": f"127.0.0.1:{2000 + 10 * generation + replica}",
        "port": 2000 + 10 * generation + replica,
        "started": 1.0,
        "supervisor": "boot:1:2:/state",
    }
    return Record(**known | values)


def generation(number: int, state: str, **values: Any) -> GenerationRecord:
    made = {"id": number, "version": f"v{number}", "state": state, "backends": [backend(number)], **values}
    return GenerationRecord(**made)


def departure(operation: int | None = 1, **values: Any) -> DepartureRecord:
    return DepartureRecord(**{"began": 1.0, "deadline": 77.0, "initial": 5, "operation": operation, **values})


def operation(phase: str, *, number: int = 1, new: int | None = None, old: int | None = None) -> OperationRecord:
    return OperationRecord(
        id=number,
        kind="swap",
        origin="v1",
        target="v2",
        began=1.0,
        phase=phase,
        generation=new,
        old=old,
        drain_limit=DEADLINE,
    )


def record(generations: list[GenerationRecord], *operations: OperationRecord, **values: Any) -> ServiceRecord:
    upcoming = max((each.id for each in generations), default=0) + 1
    return ServiceRecord(
        generations=generations, operations=list(operations), **{"next_generation": upcoming, **values}
    )


def route(number: int, *, version: str = "", endpoints: tuple[wire.Endpoint, ...] | None = None) -> wire.Route:
    if endpoints is None:
        endpoints = (wire.Endpoint(0, backend(number).address),) if number else ()
    return wire.Route(0, "web", number, endpoints, version=version or f"v{number}")


def follow(*numbers: int, **connections: int) -> Serves:
    """Workers that follow routes to these; `g1=3`: three connections of generation 1."""
    return Serves([route(each) for each in numbers], {int(name[1:]): count for name, count in connections.items()})


def marked(number: int, replica: int = 0, **values: Any) -> Marked:
    pid = values.pop("pid", pid_of(number, replica))
    start_time = values.pop("start_time", 10 * number)
    mark = Mark("boot:1:2:/state", "web", number, replica)
    port = values.pop("port", 2000 + 10 * number + replica)
    TABLE.pids.add(pid)
    return Marked(mark, ProcessId(pid, start_time), values.pop("version", f"v{number}"), port)


@dataclass
class Expected:
    active: int
    leaving: list[int] = field(default_factory=list)
    ending: list[int] = field(default_factory=list)
    switched: bool = False


def verdict_of(found: adoption.Verdict) -> Expected:
    return Expected(
        found.active.id if found.active else 0,
        [each.id for each in found.leaving],
        [each.id for each in found.ending],
        bool(found.switched),
    )


# The swap of generation 1 for 2, with what is on file, whom the workers send to, and what runs, wherever control died.
FIRST = generation(1, "active")
STAGES = {
    "begun": (record([FIRST], operation("start")), follow(1), {1}, Expected(1)),
    "starting": (
        record([FIRST, generation(2, "starting", backends=[])], operation("start", new=2)),
        follow(1), {1}, Expected(1),
    ),
    "started": (
        record([FIRST, generation(2, "starting")], operation("start", new=2)),
        follow(1), {1, 2}, Expected(1, ending=[2]),
    ),
    "getting healthy": (
        record([FIRST, generation(2, "starting")], operation("health", new=2)),
        follow(1), {1, 2}, Expected(1, ending=[2]),
    ),
    "failed, and being stopped": (
        record([FIRST, generation(2, "stopping")], operation("health", new=2)),
        follow(1), {1, 2}, Expected(1, ending=[2]),
    ),
    "about to switch": (
        record([FIRST, generation(2, "starting")], operation("switch", new=2)),
        follow(1, 1), {1, 2}, Expected(1, ending=[2]),
    ),
    "switched, and nobody could put that down": (
        record([FIRST, generation(2, "starting")], operation("switch", new=2)),
        follow(2, 2), {1, 2}, Expected(2, leaving=[1], switched=True),
    ),
    "switched": (
        record([FIRST, generation(2, "active")], operation("switch", new=2, old=1)),
        follow(2, 2), {1, 2}, Expected(2, leaving=[1], switched=True),
    ),
    "draining or baking": (
        record([generation(1, "draining", departure=departure()), generation(2, "active")],
               operation("drain", new=2, old=1)),
        follow(2, 2), {1, 2}, Expected(2, leaving=[1], switched=True),
    ),
    "the drained one died": (
        record([generation(1, "draining", departure=departure()), generation(2, "active")],
               operation("drain", new=2, old=1)),
        follow(2, 2), {2}, Expected(2, switched=True),
    ),
    "going back, before the switch": (
        record([generation(1, "draining", departure=departure()), generation(2, "active")],
               operation("bake", new=2, old=1)),
        follow(2), {1, 2}, Expected(2, leaving=[1], switched=True),
    ),
    "went back": (
        record([FIRST, generation(2, "active")], operation("bake", new=2, old=1)),
        follow(1), {1, 2}, Expected(1, leaving=[2], switched=True),
    ),
    "stopping": (
        record([generation(1, "stopping", departure=departure()), generation(2, "active")],
               operation("stop", new=2, old=1)),
        follow(2), {1, 2}, Expected(2, ending=[1], switched=True),
    ),
    "stopped": (
        record([generation(2, "active")], operation("stop", new=2, old=1)),
        follow(2), {2}, Expected(2, switched=True),
    ),
    "warm": (
        record([generation(1, "warm", departure=departure(None, warm_until=99.0)), generation(2, "active")]),
        follow(2), {1, 2}, Expected(2, leaving=[1]),
    ),
}  # fmt: skip


def running(table: Table, generations: set[int]) -> None:
    table.pids = {pid_of(each) for each in generations}


@pytest.mark.parametrize("stage", STAGES)
def test_wherever_control_dies_in_a_swap_it_goes_on_as_the_workers_do(table: Table, stage: str) -> None:
    on_file, serves, runs, expected = STAGES[stage]
    running(table, runs)
    found = judge(on_file, serves)
    assert verdict_of(found) == expected
    assert found.route == serves.route
    assert len(found.switched) + len(found.broken_off) == len(on_file.operations)


@pytest.mark.parametrize("stage", STAGES)
def test_to_judge_touches_nothing_and_comes_to_the_same_again(table: Table, stage: str) -> None:
    """It may die in the middle of carrying it out, too."""
    on_file, serves, runs, expected = STAGES[stage]
    running(table, runs)
    before = on_file.model_copy(deep=True)
    assert verdict_of(judge(on_file, serves)) == verdict_of(judge(on_file, serves)) == expected
    assert on_file == before


@pytest.mark.parametrize("stage", [name for name, (_, serves, *_) in STAGES.items() if serves.route])
def test_what_runs_is_completed_without_being_changed_where_all_of_it_is_on_file(table: Table, stage: str) -> None:
    on_file, serves, runs, expected = STAGES[stage]
    running(table, runs)
    completed = on_file.model_copy(deep=True)
    found = [marked(each.id) for each in on_file.generations if each.id in runs and each.backends]
    complete(completed, serves, found, DEADLINE)
    assert completed == on_file
    assert verdict_of(judge(completed, serves)) == expected


@pytest.mark.parametrize("stage", ["switched, and nobody could put that down", "switched"])
def test_who_was_active_until_the_switch_gets_the_time_to_drain_that_the_swap_asked_for(
    table: Table, stage: str
) -> None:
    on_file, serves, runs, _ = STAGES[stage]
    running(table, runs)
    (leaving,) = judge(on_file, serves).leaving
    assert leaving.departure
    assert (leaving.state, leaving.departure.operation) == ("draining", 1)
    assert leaving.departure.deadline - time.monotonic() == pytest.approx(DEADLINE, abs=5)
    assert leaving.backends == on_file.generations[0].backends


def test_a_drain_that_is_under_way_keeps_its_deadline(table: Table) -> None:
    on_file, serves, runs, _ = STAGES["draining or baking"]
    running(table, runs)
    assert judge(on_file, serves).leaving == [on_file.generations[0]]


# Routes of a stop, and no routes at all.


@pytest.mark.parametrize("followed", [(0, 1), (1, 0), (0, 0, 1)])
def test_a_stop_that_has_reached_some_workers_only_leaves_the_service_active(
    table: Table, followed: tuple[int, ...]
) -> None:
    running(table, {1})
    assert verdict_of(judge(record([FIRST]), follow(*followed))) == Expected(1)


def test_after_a_stop_has_reached_all_workers_nothing_is_active_and_what_drains_goes_on(table: Table) -> None:
    running(table, {1})
    on_file = record([generation(1, "draining", departure=departure(None))])
    found = judge(on_file, follow(0, 0))
    assert verdict_of(found) == Expected(0, leaving=[1])
    assert found.route is None


@pytest.mark.parametrize("serves", [Serves(), Serves([route(0)]), Serves([], {1: 2})])
def test_without_a_route_the_active_generation_on_file_goes_on_if_it_runs(table: Table, serves: Serves) -> None:
    on_file = record([FIRST, generation(2, "starting")], operation("health", new=2))
    running(table, {1, 2})
    assert verdict_of(judge(on_file, serves)) == Expected(1, ending=[2])
    running(table, set())
    found = judge(on_file, serves)
    assert verdict_of(found) == Expected(0)
    assert found.broken_off == on_file.operations


def test_what_is_elsewhere_goes_on_without_a_process(table: Table) -> None:
    elsewhere = {"address": ["10.0.0.5:9000"]}
    active = generation(2, "active", backends=[], recipe=elsewhere)
    leaving = generation(1, "draining", backends=[], recipe=elsewhere, departure=departure(None))
    assert verdict_of(judge(record([leaving, active]), follow(2))) == Expected(2, leaving=[1])
    assert verdict_of(judge(record([leaving, active]), Serves())) == Expected(2, leaving=[1])


def test_workers_that_follow_what_nobody_knows_leave_nothing_active(table: Table) -> None:
    """It is `complete` that makes it known."""
    running(table, {1})
    assert judge(record([generation(1, "starting")]), follow(7)).active is None


def test_an_operation_that_waits_behind_another_ones_drain_is_broken_off_alone(table: Table) -> None:
    draining, active, candidate = (
        generation(1, "draining", departure=departure()),
        generation(2, "active"),
        generation(3, "starting"),
    )
    running(table, {1, 2, 3})
    first, second = operation("drain", new=2, old=1), operation("health", number=2, new=3)
    found = judge(record([draining, active, candidate], first, second), follow(2))
    assert verdict_of(found) == Expected(2, leaving=[1], ending=[3], switched=True)
    assert (found.switched, found.broken_off) == ([first], [second])


# The file was lost, or is older than what happened.


def test_a_lost_file_costs_neither_the_active_generation_nor_the_connections_of_the_one_that_drains(
    table: Table,
) -> None:
    lost = ServiceRecord()
    serves = follow(3, 3, g2=4)
    complete(lost, serves, [marked(2), marked(3)], DEADLINE)
    found = judge(lost, serves)
    assert verdict_of(found) == Expected(3, leaving=[2])
    assert found.active
    assert (found.active.version, found.active.state) == ("v3", "active")
    (active_backend,) = found.active.backends
    assert active_backend.identity == ProcessId(pid_of(3), 30)
    assert (active_backend.address, active_backend.port) == (backend(3).address, backend(3).port)
    (leaving,) = found.leaving
    assert leaving.departure
    assert leaving.departure.deadline - time.monotonic() == pytest.approx(DEADLINE, abs=5)
    assert lost.next_generation == 4


def test_what_nobody_is_connected_to_is_not_taken_over_without_a_file(table: Table) -> None:
    lost = ServiceRecord()
    complete(lost, follow(3), [marked(3), marked(4)], DEADLINE)
    assert [each.id for each in lost.generations] == [3]


def test_a_backend_on_a_socket_is_found_where_the_workers_send_to(table: Table) -> None:
    lost = ServiceRecord()
    serves = Serves([route(1, endpoints=(wire.Endpoint(0, "unix:/run/app.sock"),))])
    complete(lost, serves, [marked(1, port=None)], DEADLINE)
    (found,) = lost.generations
    assert [(each.address, each.port) for each in found.backends] == [("unix:/run/app.sock", None)]


def test_what_nobody_can_say_the_address_of_is_not_taken_over(table: Table) -> None:
    lost = ServiceRecord()
    complete(lost, Serves([route(1, endpoints=())]), [marked(1, port=None)], DEADLINE)
    assert [(each.id, each.backends) for each in lost.generations] == [(1, [])]


def test_a_route_to_what_no_process_is_left_of_is_known_by_its_number_and_version(table: Table) -> None:
    lost = ServiceRecord()
    serves = Serves([route(9, version="outside")])
    complete(lost, serves, [], DEADLINE)
    found = judge(lost, serves).active
    assert found
    assert (found.id, found.version, lost.next_generation) == (9, "outside", 10)


def test_a_replica_that_was_started_again_is_taken_over_where_it_is_now(table: Table) -> None:
    """The record names the one that died; the new one has another pid and another port."""
    on_file = record([generation(1, "active", backends=[backend(1, 0), backend(1, 1)])])
    table.pids = {pid_of(1, 1)}
    again = marked(1, 0, pid=77, start_time=99, port=2099)
    complete(on_file, follow(1), [marked(1, 1), again], DEADLINE)
    (found,) = on_file.generations
    places = {each.replica: (each.pid, each.address, each.port) for each in found.backends}
    assert places == {0: (77, "127.0.0.1:2099", 2099), 1: (pid_of(1, 1), backend(1, 1).address, backend(1, 1).port)}
    assert len(found.backends) == 2


def test_a_replica_that_runs_keeps_its_place_whoever_else_bears_its_mark(table: Table) -> None:
    """What a backend starts in a session of its own has the same environment."""
    on_file = record([FIRST])
    children = [marked(1, pid=70, start_time=5), marked(1, pid=71, start_time=99)]
    complete(on_file, follow(1), [marked(1), *children], DEADLINE)
    assert on_file.generations == [FIRST]
    lost = ServiceRecord()
    complete(lost, follow(1), [marked(1, pid=71, start_time=99), marked(1)], DEADLINE)
    assert [each.pid for each in lost.generations[0].backends] == [pid_of(1)], "the first of them is the backend"


# Whatever is found.

STATES = ["starting", "active", "draining", "warm", "stopping", "failed"]
NUMBERS = st.integers(1, 5)


@st.composite
def services(draw: st.DrawFn) -> ServiceRecord:
    numbers = draw(st.lists(NUMBERS, unique=True))
    generations = []
    for number in numbers:
        state = draw(st.sampled_from(STATES))
        leaves = departure(draw(st.sampled_from([None, 1, 2]))) if state in ("draining", "warm", "stopping") else None
        replicas = draw(st.sets(st.integers(0, 2)))
        generations.append(
            generation(number, state, departure=leaves, backends=[backend(number, each) for each in sorted(replicas)])
        )
    operations = [
        operation(draw(st.sampled_from(["start", "switch", "drain"])), number=each, new=draw(st.none() | NUMBERS),
                  old=draw(st.none() | NUMBERS))
        for each in draw(st.sets(st.integers(1, 3)))
    ]  # fmt: skip
    return record(generations, *operations, next_generation=max(numbers, default=0) + draw(st.integers(1, 3)))


FOLLOWED = st.builds(
    Serves,
    st.lists(st.integers(0, 6).map(route), max_size=3),
    st.dictionaries(st.integers(1, 6), st.integers(1, 9), max_size=3),
)
PLACES = st.sets(st.tuples(st.integers(1, 6), st.integers(0, 2)))


@given(services(), FOLLOWED, PLACES)
def test_everything_that_runs_has_one_fate_and_every_operation_one_end(
    on_file: ServiceRecord, serves: Serves, runs: set[tuple[int, int]]
) -> None:
    TABLE.pids = {pid_of(*each) for each in runs}
    before = on_file.model_copy(deep=True)
    found = judge(on_file, serves)
    assert on_file == before
    fates = [each.id for each in found.generations]
    assert len(fates) == len(set(fates))
    assert {each.id for each in on_file.generations if adoption.is_running(each)} <= set(fates)
    assert all(each.state in ("draining", "warm") and each.departure for each in found.leaving)
    ends = [each.id for each in (*found.switched, *found.broken_off)]
    assert sorted(ends) == sorted(each.id for each in on_file.operations)
    if serves.route:
        assert found.active is None or found.active.id == serves.route.generation


@given(services(), FOLLOWED, PLACES)
def test_once_completed_the_generation_that_connections_go_to_is_active_and_no_number_is_used_twice(
    on_file: ServiceRecord, serves: Serves, runs: set[tuple[int, int]]
) -> None:
    TABLE.pids = {pid_of(*each) for each in runs}
    before = on_file.model_copy(deep=True)
    found = [marked(*each) for each in sorted(runs)]
    complete(on_file, serves, found, DEADLINE)
    verdict = judge(on_file, serves)
    if serves.route:
        assert verdict.active
        assert verdict.active.id == serves.route.generation
    numbers = [each.id for each in on_file.generations]
    assert len(numbers) == len(set(numbers))
    used = [*numbers, *serves.connections, *(each.generation for each in serves.routes)]
    assert on_file.next_generation > max(used, default=0)
    assert on_file.next_generation >= before.next_generation
    for each in on_file.generations:
        replicas = [one.replica for one in each.backends]
        assert len(replicas) == len(set(replicas))
    kept = {each.id: each for each in on_file.generations}
    for each in before.generations:
        still = [one for one in each.backends if TABLE.is_running(one.identity)]
        assert all(one in kept[each.id].backends for one in still), "what runs by the file is not displaced"
    for each in verdict.generations:
        if each.id in serves.connections and each.id not in [one.id for one in before.generations]:
            assert each in (verdict.active, *verdict.leaving), "nobody who is connected is cut off"
    again = on_file.model_copy(deep=True)
    complete(again, serves, found, DEADLINE)
    assert again == on_file, "once is enough"
