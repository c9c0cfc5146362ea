"""Counters and histograms as plain values, which can be saved and restored; the library's own objects cannot.

What is saved is JSON: a list with one entry for each series, `[label values, value]`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from proxy import wire

if TYPE_CHECKING:
    from collections.abc import Sequence

Labels = tuple[str, ...]
Value = TypeVar("Value")
# No counter ever gets there, and it still fits a float: what is larger is damage.
_LARGEST = 10**30


class Tally(ABC, Generic[Value]):
    """One metric: a value that only grows for each set of label values, in the order in which they began."""

    def __init__(self, name: str, documentation: str, labels: Labels = ()) -> None:
        self.name = name
        self.documentation = documentation
        self.labels = labels
        self.values: dict[Labels, Value] = {}

    def begin(self, *labels: str) -> None:
        """Let a series start at zero, unless it is there already."""
        if labels not in self.values:
            self.values[labels] = self._zero()

    def drop(self, *leading: str) -> None:
        """End every series whose label values begin with these."""
        for labels in [labels for labels in self.values if labels[: len(leading)] == leading]:
            del self.values[labels]

    @abstractmethod
    def family(self) -> Metric:
        """The metric as it is rendered."""

    def save(self) -> list[Any]:
        return [[list(labels), self._saved(value)] for labels, value in self.values.items()]

    def parse(self, saved: object) -> dict[Labels, Value]:
        """Read what `save` of this metric returned. Raises ValueError for anything else."""
        match saved:
            case [*entries]:
                return dict(self._entry(entry) for entry in entries)
        raise ValueError(f"{self.name}: not a list: {saved!r:.80}")

    def add_all(self, values: dict[Labels, Value]) -> None:
        """Add to what there is."""
        for labels, value in values.items():
            self.values[labels] = self._sum(self.values[labels], value) if labels in self.values else value

    def _entry(self, entry: object) -> tuple[Labels, Value]:
        match entry:
            case [list(labels), value] if len(labels) == len(self.labels):
                return tuple(label(each) for each in labels), self._parsed(value)
        raise ValueError(f"{self.name}: not a series: {entry!r:.80}")

    @abstractmethod
    def _zero(self) -> Value: ...

    @abstractmethod
    def _sum(self, mine: Value, other: Value) -> Value: ...

    @abstractmethod
    def _saved(self, value: Value) -> object: ...

    @abstractmethod
    def _parsed(self, saved: object) -> Value:
        """Raise ValueError for what `_saved` did not return."""


class Counter(Tally[int]):
    def add(self, *labels: str, by: int = 1) -> None:
        self.values[labels] = self.values.get(labels, 0) + by

    def family(self) -> Metric:
        family = CounterMetricFamily(self.name, self.documentation, labels=self.labels)
        for labels, count in self.values.items():
            family.add_metric(labels, count)
        return family

    def _zero(self) -> int:
        return 0

    def _sum(self, mine: int, other: int) -> int:
        return mine + other

    def _saved(self, value: int) -> object:
        return value

    def _parsed(self, saved: object) -> int:
        return whole(saved)


class Histogram(Tally[wire.Histogram]):
    """Seconds, by upper `bounds`."""

    def __init__(self, name: str, documentation: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        super().__init__(name, documentation, labels)
        self.bounds = bounds

    def observe(self, seconds: float, *labels: str) -> None:
        self.begin(*labels)
        value = self.values[labels]
        value.counts[bisect_left(self.bounds, seconds)] += 1
        value.sum += seconds

    def family(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.labels)
        for labels, value in self.values.items():
            family.add_metric(labels, *buckets(value, self.bounds))
        return family

    def _zero(self) -> wire.Histogram:
        return wire.Histogram.empty(self.bounds)

    def _sum(self, mine: wire.Histogram, other: wire.Histogram) -> wire.Histogram:
        mine.add(other)
        return mine

    def _saved(self, value: wire.Histogram) -> object:
        return [list(value.counts), value.sum]

    def _parsed(self, saved: object) -> wire.Histogram:
        match saved:
            case [list(counts), int() | float() as total] if len(counts) == len(self.bounds) + 1:
                # `not` takes care of NaN, which JSON as Python reads it may hold.
                if not 0 <= total <= _LARGEST or not math.isfinite(total):
                    raise ValueError(f"{self.name}: not a sum: {total!r:.80}")
                return wire.Histogram([whole(count) for count in counts], float(total))
        raise ValueError(f"{self.name}: not a histogram with these buckets: {saved!r:.80}")


def buckets(histogram: wire.Histogram, bounds: Sequence[float]) -> tuple[list[tuple[str, float]], float]:
    """Turn counts per bucket into Prometheus' cumulative ones."""
    names = [*(str(bound) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(histogram.counts), strict=True)), histogram.sum


def whole(value: object) -> int:
    """A count that was saved. Raises ValueError for what cannot be one."""
    if type(value) is not int or not 0 <= value <= _LARGEST:  # not isinstance: True is no count
        raise ValueError(f"not a count: {value!r:.80}")
    return value


def label(value: object) -> str:
    """A label value that was saved. Raises ValueError for what cannot be on a page, such as half a surrogate pair."""
    match value:
        case str():
            value.encode()
            return value
    raise ValueError(f"not a label value: {value!r:.80}")
