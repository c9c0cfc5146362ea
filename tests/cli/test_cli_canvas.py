"""Pictures that are drawn over in place, as an emulator of a terminal shows them."""

from __future__ import annotations

import io

import pyte
import pytest
from pyte import modes

from proxy.cli import canvas
from proxy.cli.canvas import Canvas
from tests.screens import Emulator


class Window(io.StringIO):
    """What is written is drawn at once."""

    def __init__(self, columns: int = 20, rows: int = 6) -> None:
        super().__init__()
        self.screen = Emulator(columns, rows)
        self._stream = pyte.Stream(self.screen)
        self.written = ""

    def write(self, text: str) -> int:
        self.written += text
        self._stream.feed(text.replace("\n", "\r\n"))  # as the terminal driver does
        return len(text)

    @property
    def lines(self) -> list[str]:
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip("\n").split("\n")


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Window:
    window = Window()
    monkeypatch.setattr(canvas, "size", lambda _: (window.screen.columns, window.screen.lines))
    window.write("$ proxyctl\n")
    return window


def test_a_picture_is_drawn_below_what_is_there_and_over_the_one_before(window: Window) -> None:
    drawn = Canvas(window)
    drawn.draw(lambda _: ["one", "a long line", "three"])
    drawn.draw(lambda _: ["1", "b"])
    assert window.lines == ["$ proxyctl", "1", "b"]
    drawn.draw(lambda _: ["1", "b", "c", "d"])
    drawn.draw(lambda _: ["2", "b", "c", "d"])
    assert window.lines == ["$ proxyctl", "2", "b", "c", "d"]


def test_at_the_end_of_the_screen_it_moves_up_what_was_there(window: Window) -> None:
    window.write("1\n2\n3\n4\n")
    drawn = Canvas(window)
    drawn.draw(lambda _: ["a", "b"])
    drawn.draw(lambda _: ["c", "d"])
    assert window.lines == ["2", "3", "4", "c", "d"]


def test_a_whole_screen_is_drawn_from_the_top_and_what_was_there_has_moved_out_of_it(window: Window) -> None:
    drawn = Canvas(window, whole=True)
    drawn.draw(lambda _: ["a", "b"])
    drawn.draw(lambda _: ["c"])
    assert window.lines == ["c"]


def test_the_same_picture_is_not_drawn_again(window: Window) -> None:
    drawn = Canvas(window)
    for picture in (["a"], ["b"], ["b"]):
        before = window.written
        drawn.draw(lambda _, picture=picture: picture)
    assert window.written == before


@pytest.mark.parametrize("whole", [True, False])
def test_after_a_change_of_the_width_there_is_one_picture(window: Window, whole: bool) -> None:
    drawn = Canvas(window, whole=whole)
    for columns in (20, 12, 30):
        window.screen.resize(6, columns)
        drawn.draw(lambda columns: ["x" * columns, "second"])
        assert window.lines[-2:] == ["x" * columns, "second"]
    assert window.lines == ["x" * 30, "second"]
    assert window.screen.overlong == 0


def test_a_line_that_fills_the_screen_keeps_its_last_character(window: Window) -> None:
    """Terminals stay in the last column, and would erase it with the rest of the line."""
    drawn = Canvas(window)
    drawn.draw(lambda columns: ["x" * columns, "\x1b[31m" + "y" * columns + "\x1b[0m", "日" * (columns // 2)])
    assert "\x1b[K" not in window.written


def test_a_line_that_a_terminal_thinks_longer_is_cut_and_breaks_nothing(window: Window) -> None:
    drawn = Canvas(window)
    for last in ("1", "2"):
        drawn.draw(lambda columns, last=last: ["x" * (columns + 5), last])
    assert window.lines == ["$ proxyctl", "x" * 20, "2"]


def test_more_lines_than_the_screen_has_are_told_of(window: Window) -> None:
    drawn = Canvas(window, whole=True)
    drawn.draw(lambda _: ["1", "", "2", "", "3", "4", "5"])
    assert window.lines == ["1", "2", "3", "4", "5"]  # gaps are the first to go
    drawn.draw(lambda _: ["1", "", "2", "", "3", "4", "5", "6"])
    assert window.lines == ["1", "2", "3", "4", "... 2 more lines"]


def test_between_two_drawings_the_terminal_is_as_it_was(window: Window) -> None:
    """Then it is so also when this process is killed."""
    drawn = Canvas(window)
    drawn.draw(lambda _: ["a", "b"])
    assert window.written.endswith("\x1b[?7h\x1b[?25h")
    assert not window.screen.cursor.hidden
    assert modes.DECAWM in window.screen.mode
    assert (window.screen.cursor.x, window.screen.cursor.y) == (0, 3)


def test_ctrl_c_leaves_no_trace(window: Window) -> None:
    drawn = Canvas(window)
    drawn.draw(lambda _: ["a"])
    window.write("^C")
    drawn.close()
    assert window.lines == ["$ proxyctl", "a"]
    assert window.screen.cursor.x == 0
