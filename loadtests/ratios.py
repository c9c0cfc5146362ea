"""How this proxy compares: its share of what each peer reaches, for the same protocol and number of workers."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtests.model import DIRECT, RELAY
from loadtests.results import SUMMED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadtests.model import Column, Relay, Scenario
    from loadtests.results import Measured

OURS = "proxyctl"
NAIVE = "naive"
PROXIES = ("HAProxy", "nginx", "Envoy")
PEERS = (*PROXIES, NAIVE)

# Their sum is compared; and of errors there should be none, of which nothing is a share.
_NOT_COMPARED = frozenset({"user", "system"}) | SUMMED

_FEWEST = 4  # turns that tell more than their rounds


@dataclass(frozen=True)
class Ratio:
    """Of the medians; `low` and `high` are the extremes of the rounds' own ratios, each of the same round.

    Where both were measured in turns, `median` is that of the turns' own ratios, which do not mind how fast the machine
    was; and `error` says how exact it is: about 19 of 20 times, the truth is not further away.
    """

    median: float
    low: float
    high: float
    error: float | None = None


@dataclass(frozen=True)
class Group:
    """What is compared with each other: one of ours, and the peers in the order of PEERS.

    To one without a hop, direct and our own relay are peers too, and the naive one is none.
    """

    ours: Relay
    peers: tuple[Relay, ...]


def groups(relays: Sequence[Relay]) -> list[Group]:
    """One for each of ours that has a peer."""
    found = [Group(ours, tuple(_peers(ours, relays))) for ours in relays if ours.product == OURS]
    return [group for group in found if group.peers]


def compared(scenario: Scenario) -> list[Column]:
    """The columns that ratios are made of: where more, or less, is better."""
    return [column for column in scenario.columns if column.better and column.name not in _NOT_COMPARED]


def ratio(measured: Measured, scenario: str, column: str, ours: str, theirs: str) -> Ratio | None:
    """None where one of the two was not measured, or has nothing to divide by."""
    one, other = measured.typical(scenario, ours, column), measured.typical(scenario, theirs, column)
    if one is None or not other:
        return None
    mine, its = measured.by_round(scenario, ours, column), measured.by_round(scenario, theirs, column)
    shares = [mine[number] / its[number] for number in mine if its.get(number)]
    low, high = min(shares, default=one / other), max(shares, default=one / other)
    turns = _by_turn(measured, scenario, column, ours, theirs)
    if len(turns) < _FEWEST:
        return Ratio(one / other, low, high)
    return Ratio(statistics.median(turns), low, high, _error(turns))


def _by_turn(measured: Measured, scenario: str, column: str, ours: str, theirs: str) -> list[float]:
    """Ratios of those turns that both have."""
    mine, its = measured.by_turn(scenario, ours, column), measured.by_turn(scenario, theirs, column)
    return [mine[turn] / its[turn] for turn in mine if turn[1] and its.get(turn)]


def _error(shares: Sequence[float]) -> float:
    """Of their median, at 95 %: 1.96 times its standard error, which is 0.93 of the interquartile range over the root
    of their number (for normal noise; the range does not mind the odd turn in which the machine paused).
    """
    low, _, high = statistics.quantiles(shares, n=4)
    return 1.96 * 0.93 * (high - low) / math.sqrt(len(shares))


def _peers(ours: Relay, relays: Sequence[Relay]) -> Iterable[Relay]:
    alike = [each for each in relays if (each.protocol, each.workers) == (ours.protocol, ours.workers)]
    products = PEERS if ours.datapath == RELAY else (DIRECT, OURS, *PROXIES)
    peers = [each for each in alike if each.product in products and each.datapath == RELAY and each is not ours]
    return sorted(peers, key=lambda each: products.index(each.product))
