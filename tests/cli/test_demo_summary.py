"""The demo's verdict: "No request failed." only where every promise was kept."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from proxy.cli.demo.clients import Answer, Load
from proxy.cli.demo.summary import Summary, Swap

PHASES = {"start": 0.1, "health": 0.2, "switch": 0.002, "drain": 4.5, "stop": 0.01}


def swapped(**changes: Any) -> dict[str, Any]:
    result = {"from": "v1", "to": "v2", "result": "swapped", "phases": PHASES, "forced": 0, "error": None}
    return {**result, **changes}


@pytest.fixture
def good() -> Summary:
    """Asked at 1, switched at 2; v1 answered what began before, v2 what began after."""
    load = Load(port=1, answers=[Answer("v1", 0.5, 0.01), Answer("v1", 1.9, 0.3), Answer("v2", 2.1, 0.02)])
    return Summary(load, Answer("v1", 0.9, 5.0), [Swap(asked=1, switched=2, result=swapped())])


def test_a_demo_in_which_all_went_well_says_so_with_the_figures(good: Summary) -> None:
    text = "\n".join(good.lines())
    assert good.faults == []
    assert "No request failed." in text
    assert "3 sent, 0 failed; the slowest took 300ms" in text
    assert "v1 2, v2 1" in text
    assert "answered by v1 after 5.00s" in text
    assert "switch 2ms, drain 4.50s; 0 connections cut, 0 late answers from v1" in text


def test_a_failed_request_fails_the_demo_and_says_how_often_and_why(good: Summary) -> None:
    good.load.failures["Connection refused"] += 2
    assert good.faults == ["2 x Connection refused"]
    assert "No request failed." not in "\n".join(good.lines())


def test_an_answer_of_the_old_version_after_the_switch_fails_the_demo(good: Summary) -> None:
    good.load.answers.append(Answer("v1", 2.001, 0.01))
    assert good.faults == ["1 answer of v1 after the switch to v2"]


def test_the_old_version_may_answer_again_once_it_is_swapped_back_to(good: Summary) -> None:
    good.swaps.append(Swap(asked=3, switched=4, result=swapped(**{"from": "v2", "to": "v1"})))
    good.load.answers += [Answer("v1", 3.5, 0.01), Answer("v1", 4.5, 0.01)]
    assert good.faults == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"result": "failed", "error": "it never listened"}, "the swap to v2 ended as failed: it never listened"),
        ({"forced": 1}, "1 connection cut in the swap to v2"),
    ],
)
def test_a_swap_that_went_wrong_fails_the_demo(good: Summary, change: dict[str, Any], fault: str) -> None:
    good.swaps[0].result |= change
    assert good.faults == [fault]


def test_a_switch_that_was_not_seen_fails_the_demo_since_late_answers_could_not_be_told(good: Summary) -> None:
    good.swaps[0].switched = inf
    assert good.faults == ["the swap to v2 did not report the switch"]


@pytest.mark.parametrize(
    ("slow", "fault"),
    [
        ("cut off after 2 bytes", "the slow request failed: cut off after 2 bytes"),
        (Answer("v2", 0.9, 5.0), "the slow request was answered by v2"),
    ],
)
def test_a_slow_request_that_lost_its_backend_fails_the_demo(good: Summary, slow: Answer | str, fault: str) -> None:
    good.slow = slow
    assert good.faults == [fault]
