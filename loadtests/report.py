"""What was measured, as Markdown: medians over the rounds, and this proxy's share of what others reach."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from loads import LOADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from loads import Result
    from peers import Kind

# By the peer's name and the load's; one result for each round, in the rounds' order.
Rounds = dict[tuple[str, str], list["Result"]]


def table(names: Iterable[str], loads: Sequence[str], rounds: Rounds) -> str:
    """A row for each peer."""
    titles = ["relay, processes or threads", *(title for load in loads for title in _titles(load)), "errors"]
    rows = ([name, *_figures(name, loads, rounds), _errors(name, loads, rounds)] for name in names)
    return _markdown(titles, rows)


def ratios(kinds: Sequence[Kind], loads: Sequence[str], rounds: Rounds) -> str:
    """A row for each pair that is meant to be compared and was measured; empty if there is none.

    Each round gives one ratio, between measurements that were made close to each other: what a noisy machine does to
    both is not in it. The median is given, and the range.
    """
    titles = ["ratio", *(f"{load}: {what}" for load in loads for what in ("rate", "CPU"))]
    names = [kind.name for kind in kinds]
    pairs = [(kind.name, other) for kind in kinds for other in kind.beside if other in names]
    rows = [[f"{one} to {other}", *_shares(one, other, loads, rounds)] for one, other in pairs]
    return _markdown(titles, rows) if rows else ""


def _titles(name: str) -> list[str]:
    load = LOADS[name]
    return [load.rate, load.cpu, *(["p50 / p99 µs"] if load.has_latency else [])]


def _figures(name: str, loads: Sequence[str], rounds: Rounds) -> Iterator[str]:
    for load in loads:
        results = rounds[name, load]
        yield f"{statistics.median(each.rate for each in results):,.0f}"
        cpu = statistics.median(each.cpu for each in results)
        yield "-" if name == "direct" else f"{cpu:.1f}" if LOADS[load].has_latency else f"{cpu:.0f}"
        if LOADS[load].has_latency:
            p50, p99 = (statistics.median(getattr(each, which) for each in results) for which in ("p50", "p99"))
            yield f"{p50:,.0f} / {p99:,.0f}"


def _errors(name: str, loads: Sequence[str], rounds: Rounds) -> str:
    return str(sum(each.errors for load in loads for each in rounds[name, load]))


def _shares(one: str, other: str, loads: Sequence[str], rounds: Rounds) -> Iterator[str]:
    for load in loads:
        pairs = list(zip(rounds[one, load], rounds[other, load], strict=True))
        yield _share([_ratio(ours.rate, theirs.rate) for ours, theirs in pairs])
        yield _share([_ratio(ours.cpu, theirs.cpu) for ours, theirs in pairs])


def _share(values: list[float]) -> str:
    spread = f" ({min(values):.2f}-{max(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.2f}{spread}"


def _ratio(one: float, other: float) -> float:
    return one / other if other else math.nan


def _markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---", *("---:" for _ in titles[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
