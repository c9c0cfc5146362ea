"""Charts of the ratios: what is drawn, and in which file. How it is drawn: svg.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtests.model import HTTP, INHERIT, RELAY, STEER, TCP
from loadtests.ratios import OURS, groups, ratio
from loadtests.svg import Bar, Row, Section, draw_bars
from loadtests.targets import BESIDE_DIRECT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtests.ratios import Group
    from loadtests.results import Measured

_COSTS = ("rate", "cpu")
_WORDS = {
    "rate": "throughput (more is better)",
    "cpu": "CPU time for each (less is better)",
    "p50": "p50 (less is better)",
    "p99": "p99 (less is better)",
    "memory": "memory (less is better)",
    "busy": "speed kept (more is better)",
    "p99_ratio": "p99 to the steady state's (less is better)",
}


@dataclass(frozen=True)
class Subject:
    """What one chart shows for each protocol: scenarios, one below the other, and at most two of their columns.

    `datapath`: which of ours is compared.
    """

    name: str  # of the file, before the protocol
    title: str
    scenarios: tuple[str, ...]
    columns: tuple[str, ...] = _COSTS
    datapath: str = RELAY

    def title_for(self, protocol: str) -> str:
        """With the protocol; there is one alone of what is no relay."""
        if self.datapath == RELAY:
            return f"{self.title}, {protocol.upper()}: {OURS} to its peers"
        return f"{self.title}: {OURS} {self.datapath} to direct, to its relay and to its peers"


SUBJECTS = (
    Subject("kept", "Small requests", ("kept-1", "kept-32", "kept-256", "kept-1024", "varied")),
    Subject("new", "One connection for each request", ("new",)),
    Subject("bulk", "Bulk transfer", ("bulk-down", "bulk-up")),
    Subject("fixed", "Latency at a fixed rate", ("fixed-30", "fixed-70"), ("p50", "p99")),
    Subject("websocket", "Websocket echo", ("websocket",)),
    Subject("idle", "Idle connections", ("idle",), ("memory", "busy")),
    Subject("swap", "Around a swap", ("swap",), ("p99", "p99_ratio")),
)
# What they cost is next to nothing, of which there is no logarithm.
WITHOUT_A_HOP = (
    Subject(STEER, "Steered by the kernel", BESIDE_DIRECT, ("rate", "p50"), STEER),
    Subject(INHERIT, "Accepted by the backend itself", BESIDE_DIRECT, ("rate", "p50"), INHERIT),
)


@dataclass(frozen=True)
class Chart:
    title: str
    svg: str
    datapath: str = RELAY


def draw(measured: Measured) -> dict[str, Chart]:
    """Charts by the names of their files; those that would be empty are left out."""
    drawn = {}
    for subject in (*WITHOUT_A_HOP, *SUBJECTS):
        for protocol in (TCP, HTTP):
            sections = list(_sections(measured, subject, protocol))
            if sections:
                title = subject.title_for(protocol)
                legend = [_WORDS[column] for column in subject.columns]
                drawn[f"{subject.name}-{protocol}.svg"] = Chart(
                    title, draw_bars(title, legend, sections), subject.datapath
                )
    return drawn


def _sections(measured: Measured, subject: Subject, protocol: str) -> Iterator[Section]:
    """One for each scenario and number of workers."""
    for name in subject.scenarios:
        for group in groups(measured.relays):
            is_meant = (group.ours.protocol, group.ours.datapath) == (protocol, subject.datapath)
            rows = tuple(_rows(measured, subject, name, group)) if is_meant else ()
            if rows:
                workers = f", {group.ours.workers} workers" if group.ours.workers > 1 else ""
                yield Section(name + workers, rows)


def _rows(measured: Measured, subject: Subject, scenario: str, group: Group) -> Iterator[Row]:
    """One for each peer."""
    for peer in group.peers:
        found = [ratio(measured, scenario, column, group.ours.name, peer.name) for column in subject.columns]
        bars = tuple(Bar(series, each.median) for series, each in enumerate(found) if each and each.median > 0)
        if bars:
            yield Row(peer.name if peer.product == OURS else peer.product, bars)
