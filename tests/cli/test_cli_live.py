"""The picture of an operation at any moment: no state of it may break the drawing, or go beyond the screen."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, Group

from proxy.cli.live import draw
from proxy.cli.progress import Drain, Phase, Progress
from tests.fakes import result_of

BEGUN = {"id": 1, "service": "web", "kind": "swap", "from": "v1", "to": "v2", "generation": 2, "started": 100.0}


def progress(**values: Any) -> Progress:
    return Progress(dict(BEGUN), **values)


def text(picture: Group, width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(picture)
    return stream.getvalue()


def test_before_anything_has_happened_every_phase_is_ahead() -> None:
    shown = text(draw(progress(), 100.0))
    assert shown.startswith("swap web: v1 -> v2")
    assert [line.split()[1] for line in shown.splitlines()[1:]] == ["start", "health", "switch", "drain", "stop"]


def test_a_drain_shows_its_connections_and_the_time_left() -> None:
    shown = text(draw(progress(phases={"drain": Phase(100.0)}, drain=Drain(40, 12, 0, 130.0)), 107.5))
    assert "7.50s" in shown
    assert "12 of 40 open, closed in 22s" in shown
    assert "━" in shown


def test_a_finished_drain_shows_how_its_connections_ended() -> None:
    shown = text(draw(progress(phases={"drain": Phase(100.0, 30.0)}, drain=Drain(40, 0, 2, 130.0)), 200.0))
    assert "38 finished, 2 closed at the deadline" in shown


def test_the_phase_that_failed_is_marked() -> None:
    phases = {"start": Phase(100.0, 0.1), "health": Phase(100.1, 30.0)}
    shown = text(draw(progress(phases=phases, result=result_of(result="failed")), 200.0))
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == ["✓", "✗", "·"]


def test_a_bake_is_shown_where_there_is_one() -> None:
    assert "bake" in text(draw(progress(phases={"bake": Phase(100.0)}), 101.0))
    assert "bake" not in text(draw(progress(), 101.0))


@pytest.mark.parametrize("width", [20, 40, 80])
def test_it_fits_the_screen(width: int) -> None:
    shown = text(draw(progress(phases={"drain": Phase(100.0)}, drain=Drain(40, 12, 0, 130.0)), 107.5), width)
    assert all(len(line) <= width for line in shown.splitlines())


def test_terminals_without_unicode_see_plain_marks() -> None:
    phases = {"start": Phase(100.0, 0.1), "health": Phase(100.1)}
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    console = Console(file=stream, width=80)
    console.print(
        draw(progress(phases=phases, drain=Drain(4, 1, 0, 1.0)), 101.0, ascii_only=console.options.ascii_only)
    )
    stream.flush()
