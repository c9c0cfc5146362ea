"""Text that fits, whatever is in it, and tables that keep what matters most."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcswidth

from proxy.cli.cells import best, cut, fold, pad, span, visible, wrapped
from proxy.cli.table import Cell, Column, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcödé, 日本語, 🚀", "plain, ünïcödé, 日本語, 🚀"),
        ("\x1b[2J\x07\r\n\x00", r"\x1b[2J\x07\r\n\x00"),
        ("\x9b31m \x7f", r"\x9b31m \x7f"),  # CSI in one character, and DEL
        ("\u202egnp.exe", r"\u202egnp.exe"),  # turns round what follows
        ("\udc80", r"\udc80"),
        ("a\tb", "a       b"),
        ("1\u00a0000 👩\u200d🚒", "1\u00a0000 👩\u200d🚒"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_nothing_that_is_shown_moves_the_cursor(text: str) -> None:
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in visible(text))


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("日本", 4), ("🚀", 2), ("e\u0301", 1), ("❤\ufe0f", 2), ("█░✓·…", 5)]
)
def test_a_wide_character_has_two_columns_and_an_accent_none(text: str, columns: int) -> None:
    assert span(text) == columns == wcswidth(text)


TEXTS = st.text(st.sampled_from("ab 日🚀e\u0301"), max_size=40)


@given(TEXTS, st.integers(0, 30))
def test_what_is_cut_fits_and_says_so(text: str, room: int) -> None:
    shown = cut(text, room)
    assert span(shown) <= room
    assert shown == text or room < 2 or shown.endswith(("…", "~"))
    assert span(pad(shown, room)) == max(room, span(shown))


@given(st.lists(TEXTS.filter(lambda text: text.strip() == text != ""), max_size=8), st.integers(6, 30))
def test_folded_words_fit_and_none_is_lost(words: list[str], room: int) -> None:
    lines = fold(words, room, first="  ", rest="    ")
    assert all(span(line) <= room for line in lines)
    assert "".join("".join(lines).split()) == "".join("".join(words).split())


def test_a_word_longer_than_the_screen_is_cut_and_nothing_hangs() -> None:
    assert wrapped("ab abcdefghij k", 6) == ["ab", "  abcd", "  efgh", "  ij k"]
    assert wrapped("日本 a", 1) == ["日", "  本", "  a"]  # wider than the screen, since it has to be somewhere
    assert wrapped("", 6) == []


def test_of_several_ways_to_say_it_the_longest_that_fits_is_taken() -> None:
    forms = ["in many words", "in few", "so"]
    assert [best(forms, room) for room in (None, 13, 12, 6, 5, 2, 1)] == [
        "in many words", "in many words", "in few", "in few", "so", "so", "s",
    ]  # fmt: skip


def test_columns_are_aligned_whatever_is_in_them() -> None:
    columns = (Column("NAME"), Column("COUNT", right=True))
    lines = [line for row in table(columns, [["web", "7"], ["日本", "12"]], width=None, indent=2) for line in row]
    assert lines == ["  NAME  COUNT", "  web       7", "  日本     12"]


COLUMNS = (Column("WHEN", 1), Column("NAME"), Column("A", 3), Column("B", 3), Column("STATE"))
ROW = ["12:00", "web", "1", "-", Cell("serving", "green")]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (28, ["WHEN   NAME  A  B  STATE", "12:00  web   1  -  serving"]),
        (25, ["WHEN   NAME  STATE", "12:00  web   serving", "  a 1"]),
        (19, ["NAME  STATE", "web   serving", "  when 12:00, a 1"]),
        (11, ["NAME  STATE", "web   serv…", "  when", "  12:00, a", "  1"]),
    ],
)
def test_columns_that_matter_least_go_first_and_can_be_told_below(width: int, lines: list[str]) -> None:
    shown = table(COLUMNS, [ROW], width=width, folds=True)
    assert [line for row in shown for line in row] == lines
    assert [line for row in table(COLUMNS, [ROW], width=width) for line in row] == lines[:2]


@given(st.integers(5, 60), TEXTS)
def test_a_table_is_never_wider_than_the_screen(width: int, text: str) -> None:
    rows = [["12:00", text, "x" * 30, "", "serving"], ["12:00", "database", text, "y", Cell("z" * 50, "red")]]
    shown = table(COLUMNS, rows, width=width, indent=2, folds=True)
    assert all(span(line) <= max(width, 8) for row in shown for line in row)


def test_a_mark_that_the_encoding_does_not_have_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert cut("abcdef", 4) == "abc~"
