"""A generation's counters and endpoints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.relay.generation import Flow, Generation
from proxy.wire import CONNECT_BUCKETS, DURATION_BUCKETS


def test_an_endpoint_that_stays_in_rotation_keeps_its_count() -> None:
    generation = Generation(1)
    [first, _] = generation.endpoints(["127.0.0.1:1", "127.0.0.1:2"])
    first.connections = 5
    assert generation.endpoints(["127.0.0.1:3", "127.0.0.1:1"])[1] is first


def test_an_endpoint_that_comes_back_keeps_its_count_while_it_has_connections() -> None:
    generation = Generation(1)
    [busy, idle] = generation.endpoints(["127.0.0.1:1", "127.0.0.1:2"])
    busy.connections = 1
    generation.endpoints([])
    again = generation.endpoints(["127.0.0.1:1", "127.0.0.1:2"])
    assert again[0] is busy
    assert again[1] is not idle, "replicas that restart on new ports must not pile up"


def test_an_address_that_is_none_changes_nothing() -> None:
    generation = Generation(1)
    [known] = generation.endpoints(["127.0.0.1:1"])
    with pytest.raises(ValueError, match="host:port"):
        generation.endpoints(["127.0.0.1:1", "nowhere"])
    assert generation.endpoints(["127.0.0.1:1"]) == [known]


@given(st.lists(st.floats(0, 10_000)))
def test_durations_are_counted_in_the_bucket_they_fit(seconds: list[float]) -> None:
    generation = Generation(1)
    for each in seconds:
        generation.lasted(each)
        generation.connected(each)
    counts = generation.counts()
    for histogram, bounds in ((counts.duration, DURATION_BUCKETS), (counts.connect, CONNECT_BUCKETS)):
        for number, bound in enumerate(bounds):
            assert sum(histogram.counts[: number + 1]) == sum(each <= bound for each in seconds)
        assert sum(histogram.counts) == len(seconds)
    assert counts.connections == len(seconds)


def test_what_is_not_sent_is_not_counted_as_sent() -> None:
    flow = Flow()
    flow.received, flow.unsent = 100, 30
    assert flow.sent == 70
