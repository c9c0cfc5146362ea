"""Numbers that survive: a run's results can be read again, and one odd round does not carry them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from loadtests.results import read, write
from tests.loadtests.made_up import measured, scenario

if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_written_is_read_again_whole(tmp_path: Path) -> None:
    one = measured({"kept-32": {"HAProxy TCP": [{"rate": 10.0, "errors": 0.0}, {"rate": 30.0}]}})
    one.scenarios = [scenario("kept-32", about="32 connections")]
    one.results.about = {"machine": "2 x something", "order": "shuffled, seed 7"}
    one.results.left_out = ["Envoy TCP: not installed"]
    write(tmp_path / "results.json", one)
    again = read(tmp_path / "results.json")
    assert again.results == one.results
    kept = ("name", "product", "protocol", "workers")
    assert [[getattr(each, name) for name in kept] for each in again.relays] == [
        [getattr(each, name) for name in kept] for each in one.relays
    ]
    assert [(each.name, each.title, each.about, each.columns) for each in again.scenarios] == [
        (each.name, each.title, each.about, each.columns) for each in one.scenarios
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_results_of_another_format_are_not_taken_for_ours(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format 1"):
        read(path)


def test_a_relay_from_a_file_says_that_it_cannot_be_started(tmp_path: Path) -> None:
    write(tmp_path / "results.json", measured({"kept-32": {}}))
    with pytest.raises(NotImplementedError):
        read(tmp_path / "results.json").relays[0].start(tmp_path, None)  # type: ignore[arg-type]


def test_the_median_is_shown_of_most_columns_and_the_sum_of_errors() -> None:
    samples = [{"rate": 10.0, "errors": 0.0}, {"rate": 11.0, "errors": 2.0}, {"rate": 900.0, "errors": 0.0}]
    one = measured({"new": {"nginx TCP": samples}})
    assert one.typical("new", "nginx TCP", "rate") == 11
    assert one.typical("new", "nginx TCP", "errors") == 2
    assert one.typical("new", "nginx TCP", "cpu") is None
    assert one.typical("new", "HAProxy TCP", "rate") is None


def test_what_is_no_number_is_as_if_it_had_not_been_measured() -> None:
    one = measured({"new": {"nginx TCP": [{"rate": 10.0, "cpu": math.nan}, {"rate": math.inf, "cpu": 3.0}]}})
    assert one.by_round("new", "nginx TCP", "rate") == {1: 10.0}
    assert one.by_round("new", "nginx TCP", "cpu") == {2: 3.0}
