import copy
from dataclasses import asdict, fields

from hypothesis import given
from hypothesis import strategies as st

from proxy import wire
from proxy.control.traffic import Traffic


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


def test_no_count_of_the_workers_is_left_out():
    """A new counter that is not merged would read 0 for ever, or go back when a worker dies."""
    generation = wire.GenerationCounts()
    for each in fields(generation):
        value = getattr(generation, each.name)
        if isinstance(value, wire.Histogram):
            value.counts[0], value.sum = 1, 1.0
        else:
            setattr(generation, each.name, {"x": 1} if isinstance(value, dict) else 1)
    counts = wire.Counts("web", 1, {"x": 1}, {1: generation}, {"x": 1}, 1, 1)
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
