"""What one run measured, with all that is needed to show it: as JSON, and as the numbers of tables."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from loadtests.model import Column, Relay, Results, Sample, Scenario

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROUND = "round"  # in each sample, beside its columns: which round it is of, from 1
TURN = "turn"  # and which turn of it, from 1, where it was split
# One failure in one round of three would not be seen in a median.
SUMMED = frozenset({"errors", "reconnects", "retries"})

_FORMAT = 1


@dataclass
class Measured:
    """Relays and scenarios in the order of the tables, and what was measured of them."""

    relays: list[Relay]
    scenarios: list[Scenario]
    results: Results = field(default_factory=Results)

    def add(self, scenario: str, relay: str, number: int, sample: Sample, turn: int = 0) -> None:
        """A sample of a round. What is no number is left out: JSON has no word for it, and a median no place."""
        kept = {name: float(value) for name, value in sample.items() if math.isfinite(value)}
        kept |= {ROUND: float(number)} | ({TURN: float(turn)} if turn else {})
        self.results.samples.setdefault(scenario, {}).setdefault(relay, []).append(kept)

    def by_turn(self, scenario: str, relay: str, column: str) -> dict[tuple[int, int], float]:
        """A column's values by the numbers of the round and, where it was split, the turn; empty if there are none."""
        samples = self.results.samples.get(scenario, {}).get(relay, [])
        return {(int(each[ROUND]), int(each.get(TURN, 0))): each[column] for each in samples if column in each}

    def by_round(self, scenario: str, relay: str, column: str) -> dict[int, float]:
        """The same by the numbers of the rounds alone: what is typical of its turns."""
        values: dict[int, list[float]] = defaultdict(list)
        for (number, _), value in self.by_turn(scenario, relay, column).items():
            values[number].append(value)
        return {number: _typical(column, each) for number, each in values.items()}

    def typical(self, scenario: str, relay: str, column: str) -> float | None:
        """The median over the rounds and turns, of what is counted the sum; None if it was not measured."""
        values = list(self.by_turn(scenario, relay, column).values())
        return _typical(column, values) if values else None

    def was_measured(self, scenario: str, relay: str) -> bool:
        return bool(self.results.samples.get(scenario, {}).get(relay))


def _typical(column: str, values: Sequence[float]) -> float:
    return math.fsum(values) if column in SUMMED else statistics.median(values)


def write(path: Path, measured: Measured) -> None:
    """Replace a file by this, as JSON, in one step."""
    aside = path.with_name(f"{path.name}.new")
    aside.write_text(json.dumps(_document(measured), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(path)


def read(path: Path) -> Measured:
    """What `write` wrote. Its relays and scenarios can be shown, and not run. ValueError if it is something else."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ValueError(f"{path} has no results of format {_FORMAT}")
    return Measured(
        relays=[Relay(**each, start=_cannot_run) for each in document["relays"]],
        scenarios=[_scenario(each) for each in document["scenarios"]],
        results=Results(document["about"], document["samples"], document["left_out"]),
    )


def _document(measured: Measured) -> dict[str, Any]:
    relays = [
        {name: getattr(each, name) for name in ("name", "product", "protocol", "workers", "datapath")}
        for each in measured.relays
    ]
    scenarios = [
        {"name": each.name, "title": each.title, "about": each.about, "columns": [asdict(one) for one in each.columns]}
        for each in measured.scenarios
    ]
    return {"format": _FORMAT, "relays": relays, "scenarios": scenarios, **asdict(measured.results)}


def _scenario(document: dict[str, Any]) -> Scenario:
    columns = tuple(Column(**each) for each in document["columns"])
    return Scenario(**(document | {"columns": columns}), run=_cannot_run)


def _cannot_run(*_arguments: object) -> NoReturn:
    raise NotImplementedError("read from a file of results: cannot be run")


def measured_relays(measured: Measured, scenario: Scenario) -> Sequence[Relay]:
    """Those that have a row in a scenario's table."""
    return [relay for relay in measured.relays if measured.was_measured(scenario.name, relay.name)]
