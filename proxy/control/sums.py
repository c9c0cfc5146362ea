"""Adding up what workers counted, and turning it into JSON values and back. No state of its own.

Whoever adds up and keeps sums does it with `exact` counts: in them, the sum of a histogram is a whole number of
nanoseconds. Floats give another sum in another order, and one that falls by its last bit is a reset to Prometheus.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from proxy import wire
from proxy.metrics.tally import label, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]

_NANO = 1e9
_GENERATION = tuple(each.name for each in fields(wire.GenerationCounts))
_BESIDE_GENERATIONS = ("waiting", "refused", "answered", "migrated", "retried")


def none(service: str) -> wire.Counts:
    return wire.Counts(service, 0, {}, {})


def exact(counts: wire.Counts) -> wire.Counts:
    """What a worker said, in a form whose sum does not depend on the order. Nothing of it is changed."""
    return replace(counts, generations={number: _exact(each) for number, each in counts.generations.items()})


def in_seconds(counts: wire.Counts) -> wire.Counts:
    """Turn exact counts back, in place."""
    for generation in counts.generations.values():
        for histogram in (generation.duration, generation.connect, generation.request_duration):
            histogram.sum /= _NANO
    return counts


def add(into: wire.Counts, more: wire.Counts) -> wire.Counts:
    """Both together; `into` is used up, `more` is not changed."""
    _add_each(into.refused, more.refused)
    _add_each(into.answered, more.answered)
    for number, counts in more.generations.items():
        if number not in into.generations:
            into.generations[number] = _exact(wire.GenerationCounts())
        _add_generation(into.generations[number], counts)
    return replace(
        into,
        waiting=into.waiting + more.waiting,
        migrated=into.migrated + more.migrated,
        retried=into.retried + more.retried,
    )


def update(older: Mapping[str, wire.Counts], newer: Mapping[str, wire.Counts]) -> dict[str, wire.Counts]:
    """What a worker said last of each service and generation."""
    return {**older, **{name: updated(older.get(name), counts) for name, counts in newer.items()}}


def updated(older: wire.Counts | None, newer: wire.Counts) -> wire.Counts:
    return replace(newer, generations={**older.generations, **newer.generations}) if older else newer


def end(counts: wire.Counts) -> wire.Counts:
    """What stays of a worker that is gone: no connection and no request is open any more. `counts` is used up."""
    for generation in counts.generations.values():
        generation.active = generation.in_flight = 0
    return replace(counts, waiting=0)


# As JSON values. What is zero is left out: most generations have no errors, and many no connection any more.


def save(counts: wire.Counts) -> Json:
    generations = {str(number): _saved(each, _GENERATION) for number, each in counts.generations.items()}
    return {**_saved(counts, _BESIDE_GENERATIONS), "generations": generations}


def parse(service: str, saved: object) -> wire.Counts:
    """Read what `save` returned. Raises ValueError for anything else.

    What an earlier release did not count yet is zero; what only a later one knows is left out.
    """
    match saved:
        case {"generations": dict(generations), **beside}:
            numbered = {_number(key): _generation(each) for key, each in generations.items()}
            empty = none(label(service))
            return replace(empty, generations=numbered, **_parsed(beside, empty, _BESIDE_GENERATIONS))
    raise ValueError(f"not a service's counts: {saved!r:.80}")


def _saved(counts: object, names: tuple[str, ...]) -> Json:
    found: Json = {}
    for name in names:
        value = getattr(counts, name)
        if isinstance(value, wire.Histogram):
            if any(value.counts):
                found[name] = [value.counts, value.sum]
        elif value:
            found[name] = value
    return found


def _generation(saved: object) -> wire.GenerationCounts:
    match saved:
        case dict():
            return wire.GenerationCounts(**_parsed(saved, wire.GenerationCounts(), _GENERATION))
    raise ValueError(f"not a generation's counts: {saved!r:.80}")


def _parsed(saved: Mapping[Any, object], empty: object, names: tuple[str, ...]) -> Json:
    return {name: _like(getattr(empty, name), saved[name]) for name in names if name in saved}


def _like(empty: object, saved: object) -> object:
    """A value of the type, and with the buckets, of an empty one."""
    match empty, saved:
        case int(), _:
            return whole(saved)
        case dict(), dict():
            return {label(key): whole(count) for key, count in saved.items()}
        case wire.Histogram(), [[*counts], total] if len(counts) == len(empty.counts):
            return wire.Histogram([whole(count) for count in counts], whole(total))
    raise ValueError(f"not what is counted here: {saved!r:.80}")


def _number(key: str) -> int:
    if str(number := whole(int(key))) != key:
        raise ValueError(f"not a generation: {key!r:.80}")
    return number


# Inside.


def _exact(counts: wire.GenerationCounts) -> wire.GenerationCounts:
    return replace(
        counts,
        duration=_in_nanoseconds(counts.duration),
        connect=_in_nanoseconds(counts.connect),
        request_duration=_in_nanoseconds(counts.request_duration),
    )


def _in_nanoseconds(histogram: wire.Histogram) -> wire.Histogram:
    return wire.Histogram(histogram.counts, round(histogram.sum * _NANO))


def _add_each(into: dict[str, int], more: dict[str, int]) -> None:
    for key, count in more.items():
        into[key] = into.get(key, 0) + count


def _add_generation(into: wire.GenerationCounts, more: wire.GenerationCounts) -> None:
    into.active += more.active
    into.connections += more.connections
    into.received_client += more.received_client
    into.received_backend += more.received_backend
    into.sent_client += more.sent_client
    into.sent_backend += more.sent_backend
    _add_each(into.connect_errors, more.connect_errors)
    into.duration.add(more.duration)
    into.connect.add(more.connect)
    into.in_flight += more.in_flight
    _add_each(into.requests, more.requests)
    into.request_duration.add(more.request_duration)
    into.steered += more.steered
    into.fallen_through += more.fallen_through
