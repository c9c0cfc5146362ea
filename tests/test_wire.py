"""Messages between control and workers arrive as what they were."""

from __future__ import annotations

import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import wire
from proxy.errors import WireError

numbers = st.integers(0, 2**53)
seconds = st.floats(0, 1e9)
names = st.text(min_size=1, max_size=30)


def histograms(bounds: tuple[float, ...]) -> st.SearchStrategy[wire.Histogram]:
    counts = st.lists(numbers, min_size=len(bounds) + 1, max_size=len(bounds) + 1)
    return st.builds(wire.Histogram, counts, seconds)


generation_counts = st.builds(
    wire.GenerationCounts,
    *[numbers] * 6,
    connect_errors=st.dictionaries(names, numbers, max_size=4),
    duration=histograms(wire.DURATION_BUCKETS),
    connect=histograms(wire.CONNECT_BUCKETS),
    in_flight=numbers,
    requests=st.dictionaries(names, numbers, max_size=4),
    request_duration=histograms(wire.REQUEST_BUCKETS),
    steered=numbers,
    fallen_through=numbers,
)
routes = st.builds(
    wire.Route,
    numbers,
    names,
    numbers,
    st.lists(st.builds(wire.Endpoint, numbers, names)).map(tuple),
    paused=st.booleans(),
    balance=names,
    connect_timeout=seconds,
    idle_timeout=seconds,
    max_connections=st.none() | numbers,
    version=names,
    http=st.none() | st.builds(wire.Http, seconds, names, st.booleans()),
)
STRATEGIES: dict[type, st.SearchStrategy[typing.Any]] = {
    wire.Listen: st.builds(
        wire.Listen, numbers, names, st.lists(names).map(tuple), st.lists(names).map(tuple), st.booleans()
    ),
    wire.Route: routes,
    wire.Hold: st.builds(wire.Hold, numbers, names, routes),
    wire.Describe: st.builds(wire.Describe, numbers),
    wire.Handover: st.builds(wire.Handover, numbers),
    wire.TakeOver: st.builds(wire.TakeOver, numbers),
    wire.Close: st.builds(wire.Close, numbers, names, numbers),
    wire.Forget: st.builds(wire.Forget, numbers, names, numbers),
    wire.Snapshot: st.builds(wire.Snapshot, numbers),
    wire.Exit: st.builds(wire.Exit, numbers),
    wire.Hello: st.builds(wire.Hello, numbers, numbers, names),
    wire.Ack: st.builds(
        wire.Ack, numbers, st.dictionaries(numbers, numbers), numbers, st.text(), carried=numbers, pause=seconds
    ),
    wire.Serving: st.builds(wire.Serving, names, st.none() | routes, st.lists(names).map(tuple)),
    wire.Remaining: st.builds(wire.Remaining, names, numbers, numbers),
    wire.Counts: st.builds(
        wire.Counts,
        names,
        numbers,
        st.dictionaries(names, numbers, max_size=4),
        st.dictionaries(numbers, generation_counts, max_size=3),
        answered=st.dictionaries(names, numbers, max_size=4),
        migrated=numbers,
        retried=numbers,
    ),
}


@given(st.one_of(*STRATEGIES.values()))
def test_a_message_arrives_as_what_it_was(message: wire.Message) -> None:
    assert wire.decode(wire.encode(message)) == message


def test_no_kind_of_message_is_left_out_here() -> None:
    assert set(STRATEGIES) == set(typing.get_args(wire.Message))


@given(st.binary(max_size=200))
def test_nonsense_is_an_error_of_its_own_kind(payload: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"null",
        b"[]",
        b"{}",
        b'{"t":"teleport"}',
        b'{"t":"exit"}',
        b'{"t":"exit","seq":1,"extra":1}',
        b'{"t":["exit"],"seq":1}',
        b'{"t":"route","seq":1,"service":"web","generation":1,"endpoints":[{"replica":0}]}',
        b'{"t":"counts","service":"web","waiting":0,"refused":{},"generations":{"x":{}}}',
    ],
)
def test_a_message_of_another_shape_is_an_error_and_not_half_understood(payload: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode(payload)


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(WireError, match="limit"):
        wire.encode(wire.Ack(1, error="x" * wire.MAX_MESSAGE))


def test_histograms_add_up() -> None:
    one = wire.Histogram([1, 0, 2], 3.5)
    one.add(wire.Histogram([0, 1, 1], 1.0))
    assert one == wire.Histogram([1, 1, 3], 4.5)
