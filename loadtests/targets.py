"""What this proxy is meant to reach beside its peers, as data, and whether a run shows it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtests.model import DIRECT, HTTP, RELAY, STEER, TCP
from loadtests.ratios import NAIVE, OURS, PROXIES, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from loadtests.model import Relay
    from loadtests.ratios import Ratio
    from loadtests.results import Measured

AT_LEAST = "≥"
AT_MOST = "≤"

MET = "met"
MISSED = "missed"
NOT_MEASURED = "not measured"

KEPT = ("kept-1", "kept-32", "kept-256", "kept-1024")
APART = ("apart-32", "apart-256")
SMALL_MESSAGES = (*KEPT, "varied", "new", "websocket")
BESIDE_DIRECT = (*KEPT, *APART, "new", "bulk-down", "bulk-up")

# Among what was measured of several peers. The best is the highest where more is wanted, else the lowest.
_MEDIAN = "median"
_BEST = "best"


@dataclass(frozen=True)
class Target:
    """A column of a scenario is to be at least, or at most, `factor` times that of the peers, with one worker.

    Without peers, `factor` is the bound itself. `goal` groups targets: one number for each thing that is wanted.
    `datapath`: which of ours is meant.
    """

    goal: int
    scenario: str
    column: str
    protocol: str
    bound: str  # AT_LEAST or AT_MOST
    factor: float
    peers: tuple[str, ...] = ()
    which: str = ""  # of several peers: _MEDIAN or _BEST
    datapath: str = RELAY


@dataclass(frozen=True)
class Verdict:
    """`value`: ours as a multiple of the peers', or as it is where there are none; None if it was not measured.

    `error`: how exact it is, where that is known (Ratio). The value alone is judged.
    """

    target: Target
    status: str
    value: float | None = None
    against: tuple[str, ...] = ()  # those of the peers that were measured
    error: float | None = None


def evaluate(measured: Measured, targets: Sequence[Target] | None = None) -> list[Verdict]:
    """One verdict for each target, in their order."""
    return [_verdict(measured, target) for target in (TARGETS if targets is None else targets)]


def _verdict(measured: Measured, target: Target) -> Verdict:
    ours = _value(measured, target, OURS)
    if not target.peers:
        return _judged(target, ours, ())
    theirs = {name: value for name in target.peers if (value := _value(measured, target, name)) is not None}
    if found := _ratio(measured, target):
        return _judged(target, found.median, tuple(theirs), found.error)
    reference = _reference(target, list(theirs.values())) if theirs else 0.0
    return _judged(target, ours / reference if ours is not None and reference else None, tuple(theirs))


def _judged(target: Target, value: float | None, against: tuple[str, ...], error: float | None = None) -> Verdict:
    if value is None:
        return Verdict(target, NOT_MEASURED, None, against)
    is_met = value >= target.factor if target.bound == AT_LEAST else value <= target.factor
    return Verdict(target, MET if is_met else MISSED, value, against, error)


def _ratio(measured: Measured, target: Target) -> Ratio | None:
    """To a single peer."""
    ours, theirs = (_relay(measured, target, product) for product in (OURS, target.peers[0]))
    if len(target.peers) > 1 or not ours or not theirs:
        return None
    return ratio(measured, target.scenario, target.column, ours.name, theirs.name)


def _reference(target: Target, values: list[float]) -> float:
    if target.which == _MEDIAN:
        return statistics.median(values)
    return max(values) if target.bound == AT_LEAST else min(values)


def _value(measured: Measured, target: Target, product: str) -> float | None:
    found = _relay(measured, target, product)
    return measured.typical(target.scenario, found.name, target.column) if found else None


def _relay(measured: Measured, target: Target, product: str) -> Relay | None:
    return next((relay for relay in measured.relays if _is_meant(relay, target, product)), None)


def _is_meant(relay: Relay, target: Target, product: str) -> bool:
    datapath = target.datapath if product == OURS else RELAY
    return (relay.product, relay.protocol, relay.workers, relay.datapath) == (product, target.protocol, 1, datapath)


def _small_requests() -> Iterator[Target]:
    for scenario in ("kept-32", "kept-256"):
        yield Target(1, scenario, "rate", TCP, AT_LEAST, 1.0, PROXIES, _MEDIAN)
        yield Target(1, scenario, "cpu", TCP, AT_MOST, 1.1, PROXIES, _BEST)


def _new_connections() -> Iterator[Target]:
    yield Target(2, "new", "rate", TCP, AT_LEAST, 1.0, ("nginx",))
    yield Target(2, "new", "rate", TCP, AT_LEAST, 0.9, ("HAProxy",))


def _bulk() -> Iterator[Target]:
    for protocol in (TCP, HTTP):
        for scenario in ("bulk-down", "bulk-up"):
            yield Target(3, scenario, "rate", protocol, AT_LEAST, 1.0, PROXIES, _BEST)
            yield Target(3, scenario, "cpu", protocol, AT_MOST, 1.0, PROXIES, _BEST)


def _http() -> Iterator[Target]:
    for scenario in ("kept-32", "kept-256", "varied", "new"):
        yield Target(4, scenario, "rate", HTTP, AT_LEAST, 1.0, ("HAProxy",))
        yield Target(4, scenario, "rate", HTTP, AT_LEAST, 1.0, ("Envoy",))
        yield Target(4, scenario, "cpu", HTTP, AT_MOST, 1.15, ("HAProxy",))


def _latency() -> Iterator[Target]:
    for protocol in (TCP, HTTP):
        yield Target(5, "kept-1", "p50", protocol, AT_MOST, 1.5, ("HAProxy",))
        yield Target(5, "fixed-70", "p99", protocol, AT_MOST, 1.25, ("HAProxy",))


def _idle() -> Iterator[Target]:
    for protocol in (TCP, HTTP):
        yield Target(6, "idle", "memory", protocol, AT_MOST, 2.0)
        yield Target(6, "idle", "busy", protocol, AT_LEAST, 0.95)


def _swap() -> Iterator[Target]:
    for protocol in (TCP, HTTP):
        yield Target(7, "swap", "errors", protocol, AT_MOST, 0.0)
        yield Target(7, "swap", "p99_ratio", protocol, AT_MOST, 2.0)


def _naive() -> Iterator[Target]:
    for scenario in SMALL_MESSAGES:
        yield Target(8, scenario, "rate", TCP, AT_LEAST, 5.0, (NAIVE,))


def _steered_beside_direct() -> Iterator[Target]:
    for scenario in BESIDE_DIRECT:
        yield Target(9, scenario, "rate", TCP, AT_LEAST, 0.98, (DIRECT,), datapath=STEER)


def _steered_beside_relays() -> Iterator[Target]:
    for scenario in (*KEPT, *APART):
        yield Target(10, scenario, "rate", TCP, AT_LEAST, 1.8, ("HAProxy",), datapath=STEER)


_ALL: tuple[Callable[[], Iterator[Target]], ...] = (
    _small_requests,
    _new_connections,
    _bulk,
    _http,
    _latency,
    _idle,
    _swap,
    _naive,
    _steered_beside_direct,
    _steered_beside_relays,
)
TARGETS = tuple(target for group in _ALL for target in group())
