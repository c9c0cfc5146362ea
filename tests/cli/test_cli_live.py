"""The picture of an operation at any moment: no state of it may break the drawing, or go beyond the screen."""

from __future__ import annotations

import io
from typing import Any

import pytest

from proxy.cli.cells import span
from proxy.cli.live import draw
from proxy.cli.progress import Drain, Phase, Progress
from proxy.cli.upgrade_progress import UpgradeProgress
from tests.fakes import result_of, upgrade_result

BEGUN = {"id": 1, "service": "web", "kind": "swap", "from": "v1", "to": "v2", "generation": 2, "started": 100.0}
DRAINING = {
    "start": Phase(100.0, 0.02),
    "health": Phase(100.0, 1.2),
    "switch": Phase(101.2, 0.002),
    "drain": Phase(102),
}


def progress(**values: Any) -> Progress:
    return Progress(dict(BEGUN), **values)


def text(story: Progress | UpgradeProgress, now: float, width: int = 100, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return "\n".join(draw(story, now, width=width, stream=stream))


def test_before_anything_has_happened_every_phase_is_ahead() -> None:
    shown = text(progress(), 100.0)
    assert shown.startswith("swap web: v1 -> v2")
    assert [line.split()[1] for line in shown.splitlines()[1:]] == ["start", "health", "switch", "drain", "stop"]


def test_a_drain_shows_its_connections_and_the_time_left() -> None:
    shown = text(progress(phases=DRAINING, drain=Drain(40, 12, 0, 130.0)), 107.5)
    assert shown.splitlines()[1:] == [
        "✓ start   20ms",
        "✓ health 1.20s",
        "✓ switch   2ms new connections go to the new generation",
        "> drain  5.50s ██████████████░░░░░░ 12 of 40 left to drain, closed in 22s",
        "· stop",
    ]


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (60, "> drain  5.50s ████░░░ 12 of 40 left to drain, closed in 22s"),
        (40, "  ██████░░░ 12 of 40 left, closed in 22s"),
        (20, "  ████░░░ 12/40, 22s"),
        (12, "  12/40, 22s"),
    ],
)
def test_a_narrow_screen_has_a_shorter_bar_and_fewer_words_but_the_countdown(width: int, row: str) -> None:
    lines = text(progress(phases=DRAINING, drain=Drain(40, 12, 0, 130.0)), 107.5, width).splitlines()
    assert row in lines
    assert all(span(line) <= width for line in lines)


def test_a_finished_drain_shows_how_its_connections_ended() -> None:
    shown = text(progress(phases={"drain": Phase(100.0, 30.0)}, drain=Drain(40, 0, 2, 130.0)), 200.0)
    assert "40 connections, 2 closed at the deadline" in shown


def test_the_phase_that_failed_is_marked() -> None:
    phases = {"start": Phase(100.0, 0.1), "health": Phase(100.1, 30.0)}
    shown = text(progress(phases=phases, result=result_of(result="failed")), 200.0)
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == ["✓", "✗", "·"]


def test_a_bake_is_shown_where_there_is_one() -> None:
    assert "bake" in text(progress(phases={"bake": Phase(100.0)}), 101.0)
    assert "bake" not in text(progress(), 101.0)


@pytest.mark.parametrize("width", [10, 20, 40, 60, 80])
def test_it_fits_the_screen(width: int) -> None:
    upgrade = UpgradeProgress({"id": 1, "from": "0.1.0", "started": 1.0})
    upgrade.take_result(upgrade_result())
    long = Progress(
        {**BEGUN, "from": "v" * 30, "to": "w" * 64}, phases={"drain": Phase(1.0)}, drain=Drain(4, 1, 0, 9.0)
    )
    for story in (upgrade, long):
        assert all(span(line) <= width for line in text(story, 107.5, width).splitlines())


def test_terminals_without_unicode_see_plain_marks_and_bars() -> None:
    shown = text(progress(phases=DRAINING, drain=Drain(4, 1, 0, 130.0)), 107.5, encoding="ascii")
    assert shown.isascii()
    assert "> drain  5.50s ###############----- 1 of 4 left to drain, closed in 22s" in shown
    assert "\n+ start" in shown
