import copy
import json
from collections import defaultdict
from dataclasses import asdict, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import wire
from proxy.control.traffic import Traffic, name_of
from proxy.kernel.procfs import ProcessId


def counts(connections: int = 0, active: int = 0, waiting: int = 0, refused: int = 0) -> wire.Counts:
    generation = wire.GenerationCounts(active=active, connections=connections)
    return wire.Counts("web", waiting, {"no_backend": refused} if refused else {}, {1: generation})


def test_the_workers_are_summed():
    traffic = Traffic()
    traffic.record("a", counts(connections=3, active=1, waiting=2, refused=1))
    traffic.record("b", counts(connections=4, active=2))
    total = traffic.of("web")
    assert (total.generations[1].connections, total.generations[1].active) == (7, 3)
    assert (total.waiting, total.refused) == (2, {"no_backend": 1})


def test_a_dead_workers_counts_stay_and_its_connections_are_gone():
    traffic = Traffic()
    traffic.record("a", counts(connections=3, active=2, waiting=1, refused=1))
    traffic.retire("a")
    total = traffic.of("web")
    assert (total.generations[1].connections, total.generations[1].active, total.waiting) == (3, 0, 0)
    assert total.refused == {"no_backend": 1}


def requests(count: int, in_flight: int) -> wire.Counts:
    generation = wire.GenerationCounts(in_flight=in_flight, requests={"200": count, "404": 1})
    generation.request_duration.counts[0] = count
    generation.request_duration.sum = 0.5 * count
    return wire.Counts("web", 0, {}, {1: generation}, answered={"400": count}, migrated=count, retried=count)


def test_what_is_known_of_requests_is_summed_and_outlives_the_worker_that_knew_it():
    traffic = Traffic()
    traffic.record("a", requests(3, in_flight=2))
    traffic.record("b", requests(4, in_flight=1))
    traffic.record("b", requests(5, in_flight=1))
    assert traffic.of("web").generations[1].in_flight == 3
    before = traffic.of("web")
    traffic.retire("a")
    total = traffic.of("web")
    assert (total.answered, total.migrated, total.retried) == ({"400": 8}, 8, 8)
    assert total.generations[1].requests == {"200": 8, "404": 2}
    assert (total.generations[1].request_duration.counts[0], total.generations[1].request_duration.sum) == (8, 4.0)
    assert total.generations[1].in_flight == 1
    before.generations[1].in_flight = 1
    assert total == before


def one_of_each() -> wire.Counts:
    generation = wire.GenerationCounts()
    for each in fields(generation):
        value = getattr(generation, each.name)
        if isinstance(value, wire.Histogram):
            value.counts[0], value.sum = 1, 1.0
        else:
            setattr(generation, each.name, {"x": 1} if isinstance(value, dict) else 1)
    return wire.Counts("web", 1, {"x": 1}, {1: generation}, {"x": 1}, 1, 1)


def test_no_count_of_the_workers_is_left_out():
    """A new counter that is not merged would read 0 for ever, or go back when a worker dies."""
    counts = one_of_each()
    traffic = Traffic()
    traffic.record("a", counts)
    assert traffic.of("web") == counts
    traffic.record("b", copy.deepcopy(counts))
    doubled = asdict(traffic.of("web"))
    assert doubled == _doubled(asdict(counts))


def _doubled(value):
    match value:
        case dict():
            return {key: _doubled(each) for key, each in value.items()}
        case list():
            return [_doubled(each) for each in value]
        case str():
            return value
        case _:
            return 2 * value


def test_a_forgotten_generation_is_gone_from_living_and_dead_workers():
    traffic = Traffic()
    traffic.record("a", counts(connections=3))
    traffic.retire("a")
    traffic.record("b", counts(connections=1))
    traffic.forget("web", 1)
    assert traffic.of("web").generations == {}


def test_asking_changes_nothing():
    traffic = Traffic()
    traffic.record("a", counts(connections=3))
    traffic.retire("a")
    traffic.record("b", counts(connections=1))
    assert traffic.of("web") == traffic.of("web")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.booleans()), max_size=40))
def test_counters_never_go_backwards_whichever_workers_die_when(steps):
    traffic = Traffic()
    alive = dict.fromkeys("abc", 0)
    seen = 0
    for worker, more, dies in steps:
        alive[worker] += more
        traffic.record(worker, counts(connections=alive[worker]))
        if dies:
            traffic.retire(worker)
            alive[worker] = 0
        now = traffic.of("web").generations[1].connections
        assert now >= seen
        seen = now


def test_generations_that_come_in_several_messages_are_all_counted():
    traffic = Traffic()

    def part(*numbers, connections):
        generations = {number: wire.GenerationCounts(connections=connections) for number in numbers}
        return wire.Counts("web", 2, {}, generations)

    for connections in (1, 2):
        traffic.record("a", part(1, 2, connections=connections))
        traffic.record("a", part(3, connections=connections))
    assert {number: each.connections for number, each in traffic.of("web").generations.items()} == {1: 2, 2: 2, 3: 2}
    assert traffic.of("web").waiting == 2
    traffic.retire("a")
    assert {number: each.connections for number, each in traffic.of("web").generations.items()} == {1: 2, 2: 2, 3: 2}


def test_the_workers_own_figures_are_not_touched():
    said = one_of_each()
    before = copy.deepcopy(said)
    traffic = Traffic()
    traffic.record("a", said)
    traffic.of("web")
    traffic.retire("a")
    assert said == before


def timed(seconds: float) -> wire.Counts:
    generation = wire.GenerationCounts()
    for histogram in (generation.duration, generation.connect, generation.request_duration):
        histogram.counts[0], histogram.sum = 1, seconds
    return wire.Counts("web", 0, {}, {1: generation})


def test_a_sum_of_times_does_not_fall_by_its_last_bit_when_a_worker_goes():
    """0.1 + 0.2 + 0.3 is less than 0.3 + 0.2 + 0.1 in floats: a reset, to Prometheus."""
    traffic = Traffic()
    for worker, seconds in (("c", 0.3), ("b", 0.2), ("a", 0.1)):
        traffic.record(worker, timed(seconds))
    before = traffic.of("web").generations[1].duration.sum
    for worker in "abc":
        traffic.retire(worker)
    assert traffic.of("web").generations[1].duration.sum == before == 0.6


# A new control process goes on from where the last one was.


def successor(traffic: Traffic, alive: set[str]) -> Traffic:
    after = Traffic()
    after.restore(json.loads(json.dumps(traffic.save())), alive)
    return after


def test_what_a_living_worker_said_last_is_known_before_it_reports_and_not_counted_twice_after():
    traffic = Traffic()
    traffic.join("a", "1:10")
    traffic.record("a", one_of_each())
    after = successor(traffic, {"1:10"})
    assert after.of("web") == one_of_each()
    worker = object()
    after.join(worker, "1:10")
    assert after.of("web") == one_of_each()
    assert after.connections(worker) == 1
    after.record(worker, one_of_each())
    assert after.of("web") == one_of_each()


def test_a_worker_that_did_not_outlive_control_leaves_its_counts_and_no_open_connections():
    traffic = Traffic()
    traffic.join("a", "1:10")
    traffic.record("a", one_of_each())
    total = successor(traffic, {"1:11"}).of("web")
    expected = one_of_each()
    expected.generations[1].active = expected.generations[1].in_flight = 0
    assert total == wire.Counts("web", 0, expected.refused, expected.generations, expected.answered, 1, 1)


def test_a_worker_that_could_not_be_adopted_is_retired_by_its_name():
    traffic = Traffic()
    traffic.join("a", "1:10")
    traffic.record("a", counts(connections=3, active=2))
    after = successor(traffic, {"1:10"})
    after.retire("1:10")
    generation = after.of("web").generations[1]
    assert (generation.connections, generation.active) == (3, 0)


def test_a_crash_before_the_workers_are_adopted_loses_and_doubles_nothing():
    traffic = Traffic()
    traffic.join("a", "1:10")
    traffic.record("a", one_of_each())
    third = successor(successor(traffic, {"1:10"}), {"1:10"})
    third.join("again", "1:10")
    assert third.of("web") == one_of_each()


def test_it_does_not_matter_whether_a_worker_joins_before_or_after_the_restore():
    traffic = Traffic()
    traffic.join("a", "1:10")
    traffic.record("a", counts(connections=3))
    traffic.record("a", wire.Counts("db", 0, {}, {4: wire.GenerationCounts(connections=7)}))
    saved = traffic.save()
    after = Traffic()
    after.join("b", "1:10")
    after.record("b", counts(connections=5))
    after.restore(saved, {"1:10"})
    assert after.of("web").generations[1].connections == 5
    assert after.of("db").generations[4].connections == 7


def test_what_a_worker_says_before_it_joins_is_newer_than_what_was_restored():
    traffic = Traffic()
    traffic.join("a", "1:10")
    traffic.record("a", counts(connections=3))
    after = successor(traffic, {"1:10"})
    after.record("b", counts(connections=5))
    after.join("b", "1:10")
    assert after.of("web").generations[1].connections == 5


def test_a_worker_without_a_name_counts_as_gone():
    traffic = Traffic()
    traffic.record("a", counts(connections=3, active=3))
    traffic.record("b", counts(connections=4, active=4))
    generation = successor(traffic, set()).of("web").generations[1]
    assert (generation.connections, generation.active) == (7, 0)


def test_a_forgotten_generation_is_forgotten_of_workers_that_have_not_joined_yet_too():
    traffic = Traffic()
    traffic.join("a", "1:10")
    traffic.record("a", counts(connections=3))
    after = successor(traffic, {"1:10"})
    after.forget("web", 1)
    after.join("b", "1:10")
    assert after.of("web").generations == {}


def test_restarts_of_workers_go_on():
    traffic = Traffic()
    traffic.restarted()
    traffic.restarted()
    after = successor(traffic, set())
    after.restarted()
    assert after.restarts == 3


def test_a_name_tells_a_process_from_the_next_one_with_its_pid():
    assert name_of(ProcessId(1, 10)) == "1:10"


STEPS = st.one_of(
    st.tuples(st.just("work"), st.sampled_from("abc"), st.integers(0, 5), st.floats(0, 1e6)),
    st.tuples(st.just("report"), st.sampled_from("abc")),
    st.tuples(st.just("die"), st.sampled_from("abc")),
    st.tuples(st.just("scrape")),
    st.tuples(st.just("crash"), st.sets(st.sampled_from("abc"))),
)


class Machine:
    """Workers that count on their own, a control that asks and dies, and a Prometheus that looks at it."""

    def __init__(self) -> None:
        self.births = 0
        self.file = Traffic().save()
        self.traffic = Traffic()
        self.workers: dict[str, str] = {}
        self.own: dict[str, wire.Counts] = {}
        self.shown: dict[str, float] = {}
        for slot in "abc":
            self._born(slot)

    def _born(self, slot: str) -> None:
        self.births += 1
        name = f"{self.births}:1"
        self.workers[slot], self.own[name] = name, timed(0.0)
        self.traffic.join(self._object(slot), name)

    def _object(self, slot: str) -> object:
        return (slot, id(self.traffic))

    def work(self, slot: str, count: int, seconds: float) -> None:
        counts = self.own[self.workers[slot]]
        generation = counts.generations[1]
        generation.connections += count
        generation.active = count
        generation.duration.counts[2] += 1
        for histogram in (generation.duration, generation.connect, generation.request_duration):
            histogram.sum += seconds
        counts.refused["no_backend"] = counts.refused.get("no_backend", 0) + count

    def report(self, slot: str) -> None:
        self.traffic.record(self._object(slot), copy.deepcopy(self.own[self.workers[slot]]))

    def die(self, slot: str) -> None:
        self.traffic.retire(self._object(slot))
        self._born(slot)

    def scrape(self) -> None:
        """What goes out is on file first."""
        now = figures(self.traffic.of("web"))
        self.file = json.loads(json.dumps(self.traffic.save()))
        back = {name: (now[name], seen) for name, seen in self.shown.items() if now[name] < seen}
        assert not back
        self.shown = now

    def crash(self, dead: set[str]) -> None:
        alive = {name for slot, name in self.workers.items() if slot not in dead}
        self.traffic = Traffic()
        self.traffic.restore(self.file, alive)
        self.scrape()
        for slot, name in self.workers.items():
            if slot in dead:
                self._born(slot)
            else:
                self.traffic.join(self._object(slot), name)


def figures(counts: wire.Counts) -> dict[str, float]:
    """Every counter of a service; one that is not there yet reads 0."""
    found: dict[str, float] = defaultdict(float)
    found["refused"] = counts.refused.get("no_backend", 0)
    if generation := counts.generations.get(1):
        found["connections"] = generation.connections
        for name in ("duration", "connect", "request_duration"):
            histogram = getattr(generation, name)
            found[f"{name} sum"] = histogram.sum
            found |= {f"{name} {index}": count for index, count in enumerate(histogram.counts)}
    return found


@settings(max_examples=120)
@given(st.lists(STEPS, max_size=60))
def test_no_counter_that_was_shown_ever_goes_back_whoever_dies_when(steps):
    machine = Machine()
    for name, *arguments in steps:
        getattr(machine, name)(*arguments)
    machine.scrape()
    for slot in "abc":
        machine.report(slot)
        machine.scrape()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.floats(0, 1e6)), max_size=20), st.booleans())
def test_while_all_workers_live_a_crash_of_control_changes_no_figure(work, adopted):
    machine = Machine()
    for step in work:
        machine.work(*step)
    for slot in "abc":
        machine.report(slot)
    before = machine.traffic.of("web")
    machine.scrape()
    machine.crash(set())
    assert machine.traffic.of("web") == before
    if adopted:
        for slot in "abc":
            machine.report(slot)
    assert figures(machine.traffic.of("web")) == figures(before)


def saved_example():
    traffic = Traffic()
    traffic.join("a", "1:10")
    traffic.record("a", one_of_each())
    traffic.record("b", one_of_each())
    traffic.retire("b")
    return json.loads(json.dumps(traffic.save()))


def test_an_earlier_release_counted_less_and_a_later_one_more():
    saved = saved_example()
    del saved["gone"]["web"]["migrated"], saved["gone"]["web"]["generations"]["1"]["requests"]
    saved["gone"]["web"]["new"] = saved["gone"]["web"]["generations"]["1"]["new"] = "?"
    after = Traffic()
    after.restore(saved, set())
    assert after.of("web").migrated == 1
    assert after.of("web").generations[1].requests == {"x": 1}


DAMAGE = [
    (("restarts",), -1),
    (("restarts",), None),
    (("gone",), []),
    (("gone", "web"), None),
    (("gone", "web"), {}),
    (("gone", "web", "migrated"), 1.0),
    (("gone", "web", "migrated"), True),
    (("gone", "web", "refused"), {"x": -1}),
    (("gone", "web", "refused"), 1),
    (("gone", "web", "refused"), {"\ud800": 1}),
    (("gone", "web", "generations"), []),
    (("gone", "web", "generations", "1"), []),
    (("gone", "web", "generations", "01"), {}),
    (("gone", "web", "generations", "-1"), {}),
    (("gone", "web", "generations", "one"), {}),
    (("gone", "web", "generations", "1", "active"), "1"),
    (("gone", "web", "generations", "1", "connect"), [[1], 1]),
    (("gone", "web", "generations", "1", "connect"), [[1] * 14, 0.5]),
    (("gone", "web", "generations", "1", "connect"), [[1.5] * 14, 1]),
    (("gone", "web", "generations", "1", "connect"), 1),
    (("gone", "web", "generations", "1", "connect"), [[1] * 14, 10**400]),
    (("workers",), []),
    (("workers", "1:10"), 1),
    (("workers", "1:10", "web"), 1),
]


@pytest.mark.parametrize(("place", "value"), DAMAGE, ids=str)
@pytest.mark.parametrize("alive", [set(), {"1:10"}])
def test_damage_is_refused_as_a_whole(place, value, alive):
    saved = saved_example()
    inner = saved
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    after = Traffic()
    with pytest.raises(ValueError):  # noqa: PT011  # whichever
        after.restore(saved, alive)
    assert after.of("web") == Traffic().of("web")
    assert after.restarts == 0


@pytest.mark.parametrize("saved", [{}, [], {"restarts": 1, "gone": {}}])
def test_another_shape_is_refused(saved):
    with pytest.raises(ValueError, match="not what"):
        Traffic().restore(saved, set())


def test_each_change_is_told_and_what_changes_nothing_is_not():
    traffic = Traffic()
    told = []
    traffic.on_change = lambda: told.append(json.dumps(traffic.save()))
    traffic.join("a", "1:10")
    traffic.record("a", one_of_each())
    traffic.record("a", one_of_each())
    assert len(told) == 2
    traffic.restarted()
    traffic.retire("a")
    assert len(told) == 4
    traffic.forget("web", 1)
    traffic.restore(saved_example(), set())
    assert len(told) == 6
    assert told[-1] == json.dumps(traffic.save())
