"""Times as people read them, colours only where they are wanted, the size of the window."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cli import terminal
from proxy.cli.terminal import age, paint, plural, took

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0123, "12ms"),
        (0.9996, "1.00s"),
        (1.256, "1.26s"),
        (59.999, "1m00s"),
        (123, "2m03s"),
        (3720, "1h02m"),
    ],
)
def test_how_long_it_took(seconds: float, text: str) -> None:
    assert took(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (5.9, "5s"), (200, "3m20s"), (7500, "2h05m"), (388800, "4d12h")]
)
def test_how_long_ago(seconds: float, text: str) -> None:
    assert age(seconds) == text


@given(st.floats(0, 1e8))
def test_times_are_short(seconds: float) -> None:
    assert len(took(seconds)) <= 9
    assert len(age(seconds)) <= 9


def test_one_is_not_many() -> None:
    assert (plural(1, "connection"), plural(0, "connection")) == ("1 connection", "0 connections")


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_up(**environment: str) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return set_up


def test_colours_are_for_terminals(on_a_terminal: Callable[..., None]) -> None:
    assert paint("down", "red") == "down"
    on_a_terminal()
    assert paint("down", "red") == "\x1b[31mdown\x1b[0m"
    assert paint("down", "") == "down"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_nobody_gets_colours_who_does_not_want_them(
    environment: dict[str, str], on_a_terminal: Callable[..., None]
) -> None:
    on_a_terminal(**environment)
    assert paint("down", "red") == "down"


def test_output_to_a_file_is_never_cut(on_a_terminal: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert terminal.width() is None
    on_a_terminal()
    assert terminal.width() == 40


@pytest.mark.parametrize(
    ("size", "environment", "found"),
    [
        ((100, 30), {}, (100, 30)),
        ((100, 30), {"COLUMNS": "60", "LINES": "20"}, (60, 20)),
        ((50, 10), {"COLUMNS": "100", "LINES": "30"}, (50, 10)),  # those of before the window was made smaller
        ((0, 0), {"COLUMNS": "100", "LINES": "30"}, (100, 30)),
        ((0, 0), {"COLUMNS": "", "LINES": "many"}, (80, 24)),
    ],
)
def test_a_picture_is_never_made_for_more_than_the_window_has(
    size: tuple[int, int], environment: dict[str, str], found: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size(size))
    assert terminal.size(sys.__stdout__) == found
