"""Results as tables: of what was measured, of ratios, and of targets. They are Markdown that a terminal shows well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtests.model import DIRECT, RELAY
from loadtests.ratios import Ratio, compared, groups, ratio
from loadtests.results import SUMMED, measured_relays
from loadtests.targets import AT_LEAST, BESIDE_DIRECT, MET, MISSED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from loadtests.model import Column, Relay, Scenario
    from loadtests.ratios import Group
    from loadtests.results import Measured
    from loadtests.targets import Verdict

_NOTHING = "-"
_RATE = "rate"


def measurements(measured: Measured, scenario: Scenario) -> str:
    """A row for each relay: medians, and ranges where there was more than one round. Empty if none was measured."""
    relays = measured_relays(measured, scenario)
    columns = [each for each in scenario.columns if any(_values(measured, scenario, one, each) for one in relays)]
    rows = [[relay.name, *(_cell(measured, scenario, relay, each) for each in columns)] for relay in relays]
    return grid(["relay", *(column.title for column in columns)], rows)


def ratios(measured: Measured, group: Group) -> str:
    """A row for each scenario's column, and a column for each peer. Empty where there is nothing to compare."""
    rows = []
    for scenario in measured.scenarios:
        for column in compared(scenario):
            found = [ratio(measured, scenario.name, column.name, group.ours.name, each.name) for each in group.peers]
            if any(found):
                title = f"{scenario.name}: {column.title}"
                rows.append([title, column.better, *(_share(each, _rounds(measured, scenario)) for each in found)])
    return grid([f"{group.ours.name} to", "better", *(peer.name for peer in group.peers)], rows)


def without_a_hop(measured: Measured) -> str:
    """A row for each scenario: rates, and what part of direct's they are. Empty where none of ours without a hop was
    measured.
    """
    ours = next((each for each in groups(measured.relays) if each.ours.datapath != RELAY), None)
    if ours is None:
        return ""
    relays = [each for each in measured.relays if each in ours.peers or each.datapath != RELAY]
    direct = next((each for each in relays if each.product == DIRECT), None)
    rows = [
        [f"{scenario.name}: {_title(measured, scenario.name, _RATE)}", *_rates(measured, scenario, relays, direct)]
        for scenario in measured.scenarios
        if scenario.name in BESIDE_DIRECT and any(measured.was_measured(scenario.name, each.name) for each in relays)
    ]
    return grid(["", *(each.name for each in relays)], rows)


def _rates(measured: Measured, scenario: Scenario, relays: Sequence[Relay], direct: Relay | None) -> Iterator[str]:
    for relay in relays:
        rate = measured.typical(scenario.name, relay.name, _RATE)
        share = ratio(measured, scenario.name, _RATE, relay.name, direct.name) if direct else None
        part = f" ({share.median:.2f})" if share and relay is not direct else ""
        yield _NOTHING if rate is None else f"{rate:,.0f}{part}"


def targets(measured: Measured, verdicts: Iterable[Verdict]) -> str:
    """A row for each; in bold what was missed."""
    titles = ["goal", "scenario", "proxyctl", "wanted", "measured", "result"]
    return grid(titles, [_target(measured, verdict) for verdict in verdicts], left=len(titles))


def grid(titles: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table whose cells are padded to line up; the first `left` columns are aligned left."""
    lines = [list(titles), *(list(row) for row in rows)]
    if len(lines) == 1:
        return ""
    widths = [max(3, *(len(line[index]) for line in lines)) for index in range(len(titles))]
    rule = ["-" * width if index < left else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    return "\n".join(_line(line, widths, left) for line in [lines[0], rule, *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int], left: int) -> str:
    padded = (
        cell.ljust(width) if index < left else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"| {' | '.join(padded)} |"


def _values(measured: Measured, scenario: Scenario, relay: Relay, column: Column) -> list[float]:
    return list(measured.by_round(scenario.name, relay.name, column.name).values())


def _cell(measured: Measured, scenario: Scenario, relay: Relay, column: Column) -> str:
    values = _values(measured, scenario, relay, column)
    typical = measured.typical(scenario.name, relay.name, column.name)
    if typical is None:
        return _NOTHING
    shown, low, high = (f"{value:,.{column.digits}f}" for value in (typical, min(values), max(values)))
    return shown if len(values) == 1 or column.name in SUMMED else f"{shown} ({low}-{high})"


def _rounds(measured: Measured, scenario: Scenario) -> int:
    samples = measured.results.samples.get(scenario.name, {})
    return max((len(each) for each in samples.values()), default=0)


def _share(share: Ratio | None, rounds: int) -> str:
    if share is None:
        return _NOTHING
    return f"{share.median:.2f}" + (f" ({share.low:.2f}-{share.high:.2f})" if rounds > 1 else "")


def _target(measured: Measured, verdict: Verdict) -> list[str]:
    target = verdict.target
    peers = ", ".join(target.peers)
    reference = f" x {target.which} of {peers}" if target.which else f" x {peers}" if peers else ""
    title = f"{_title(measured, target.scenario, target.column)} {target.bound} {target.factor:g}{reference}"
    value = _NOTHING if verdict.value is None else _exact(verdict, target.factor)
    without = [peer for peer in target.peers if peer not in verdict.against] if verdict.value is not None else []
    missing = f" (without {', '.join(without)})" if without else ""
    status = f"**{verdict.status}**" if verdict.status == MISSED else verdict.status
    error = "" if verdict.error is None else f" ± {verdict.error:.2f}"
    ours = target.protocol.upper() if target.datapath == RELAY else target.datapath
    return [str(target.goal), target.scenario, ours, title, f"{value}{error}{missing}", status]


def _exact(verdict: Verdict, factor: float) -> str:
    """To two digits, or as many as it takes to see on which side of the bound it is."""
    assert verdict.value is not None
    for digits in (2, 3, 4):
        shown = f"{verdict.value:.{digits}f}"
        meets = float(shown) >= factor if verdict.target.bound == AT_LEAST else float(shown) <= factor
        if meets == (verdict.status == MET):
            break
    return shown


def _title(measured: Measured, scenario: str, column: str) -> str:
    found = (each for one in measured.scenarios if one.name == scenario for each in one.columns if each.name == column)
    return next((each.title for each in found), column)
