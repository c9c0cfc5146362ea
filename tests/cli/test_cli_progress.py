"""What is known of an operation at each moment."""

from __future__ import annotations

import pytest

from proxy.cli import outcome
from proxy.cli.progress import Drain, Phase, Progress
from tests.fakes import result_of

BEGUN = {"id": 7, "service": "web", "kind": "swap", "from": "v1", "to": "v2", "generation": 2, "started": 100.0}


def test_events_of_another_operation_change_nothing() -> None:
    progress = Progress(dict(BEGUN))
    assert not progress.take({"type": "phase", "operation": 8, "phase": "start", "state": "begin", "time": 1.0})
    assert not progress.take({"type": "worker", "time": 1.0})
    assert progress == Progress(dict(BEGUN))


def test_phases_drain_and_result_are_gathered() -> None:
    progress = Progress(dict(BEGUN))
    mine = {"operation": 7, "time": 101.0}
    assert progress.take({**mine, "type": "phase", "phase": "drain", "state": "begin"})
    assert progress.phases == {"drain": Phase(101.0)}
    progress.take({**mine, "type": "drain", "initial": 5, "remaining": 2, "deadline": 130.0, "version": "v1"})
    assert progress.drain == Drain(5, 2, 0, 130.0)
    progress.take({**mine, "type": "phase", "phase": "drain", "state": "end", "seconds": 2.0})
    assert progress.phases == {"drain": Phase(101.0, 2.0)}
    progress.take({**mine, "type": "result", "result": result_of(id=7)})
    assert progress.result == result_of(id=7)


def test_an_end_without_its_begin_still_counts() -> None:
    progress = Progress(dict(BEGUN))
    progress.take({"type": "phase", "operation": 7, "phase": "start", "state": "end", "seconds": 1.0, "time": 101.0})
    assert progress.phases["start"].seconds == 1.0


def test_an_entry_of_an_earlier_proxy_process_is_not_this_one() -> None:
    progress = Progress(dict(BEGUN))
    assert progress.is_result({"id": 7, "started": 100.0})
    assert not progress.is_result({"id": 7, "started": 50.0})
    assert not progress.is_result({})


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({}, "swap web: v1 -> v2"),
        ({"kind": "restart", "to": "v1"}, "restart web: v1"),
        ({"from": None}, "swap web: v2"),
    ],
)
def test_the_headline_says_what_is_under_way(changes: dict[str, object], headline: str) -> None:
    assert Progress({**BEGUN, **changes}).headline() == headline


@pytest.mark.parametrize(
    ("drained", "forced", "text"),
    [
        (0, 0, "nothing had to be drained"),
        (1, 0, "1 connection finished"),
        (12, 1, "12 connections finished, 1 connection was closed at the deadline"),
        (0, 2, "2 connections were closed at the deadline"),
    ],
)
def test_how_the_connections_ended(drained: int, forced: int, text: str) -> None:
    assert outcome.drained(result_of(drained=drained, forced=forced)) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"overlap": 0.12}, "both generations accepted for at most 120ms"),
        ({"overlap": 0.0}, "both generations accepted for at most 0ms"),
        ({"overlap": None}, ""),
        ({}, ""),  # a proxy of the release before
    ],
)
def test_for_how_long_both_generations_accepted(values: dict[str, float | None], text: str) -> None:
    assert outcome.overlap(result_of(**values)) == text


def test_a_failure_without_a_reason_or_output_is_still_a_sentence() -> None:
    message, hint = outcome.failure(result_of(result="failed", hint="", output=[]))
    assert message == "swap of web to v2 failed: no reason was given (v1 still serves)"
    assert hint == "what it printed: proxyctl logs v2 --service web"
