"""How this proxy compares: its share of what each peer reaches, for the same protocol and number of workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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


@dataclass(frozen=True)
class Ratio:
    """Of the medians; `low` and `high` are the extremes of the rounds' own ratios, each of the same round."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """What is compared with each other: one of ours, and the peers in the order of PEERS."""

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
    return Ratio(one / other, min(shares, default=one / other), max(shares, default=one / other))


def _peers(ours: Relay, relays: Sequence[Relay]) -> Iterable[Relay]:
    alike = [each for each in relays if (each.protocol, each.workers) == (ours.protocol, ours.workers)]
    return sorted((each for each in alike if each.product in PEERS), key=lambda each: PEERS.index(each.product))
