"""What backends printed: the right lines, whole, none twice and none left out, also across a rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api import printed
from proxy.api.printed import Printed, Source
from proxy.control import output

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    with path.open("a") as file:
        file.write(text)
    return path


def numbered(*numbers: int) -> str:
    return "".join(f"line {number}\n" for number in numbers)


def read(source: Source) -> str:
    return b"".join(iter(source.read, b"")).decode()


def last(folder: Path, lines: int) -> str:
    shown = Printed(lambda: output.files(folder))
    return (b"".join(shown.last(lines)) + shown.rest()).decode()


@given(st.lists(st.text("ab\r", max_size=5), max_size=30), st.integers(0, 40), st.integers(1, 9))
def test_the_last_lines_are_what_tail_would_show(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], wanted: int, piece: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "1.0.log"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    expected = "".join(f"{line}\n" for line in lines[max(0, len(lines) - wanted) :]) if wanted else ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(printed, "PIECE", piece)
        source = Source(path)
        assert source.rewind(wanted) == min(wanted, len(lines))
        assert read(source) + source.rest().decode() == expected


def test_lines_that_were_rotated_away_count(tmp_path: Path) -> None:
    write(tmp_path, "1.0.log.1", numbered(1, 2, 3))
    write(tmp_path, "1.0.log", numbered(4, 5))
    assert last(tmp_path, 3) == numbered(3, 4, 5)
    assert last(tmp_path, 2) == numbered(4, 5)
    assert last(tmp_path, 10) == numbered(1, 2, 3, 4, 5)
    assert last(tmp_path, 0) == ""


def test_nothing_is_lost_or_repeated_when_the_file_is_rotated_under_the_reader(tmp_path: Path) -> None:
    path = write(tmp_path, "1.0.log", numbered(1, 2))
    source = Source(path)
    source.rewind(1)
    assert read(source) == numbered(2)
    write(tmp_path, "1.0.log", numbered(3, 4))
    assert output.rotate(path, max_size=0)
    write(tmp_path, "1.0.log", numbered(5))
    assert read(source) == numbered(3, 4, 5)
    write(tmp_path, "1.0.log", numbered(6))
    assert read(source) == numbered(6)


def test_a_line_is_shown_when_it_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path, "1.0.log", "")
    source = Source(path)
    source.rewind(0)
    write(tmp_path, "1.0.log", "half ")
    assert read(source) == ""
    write(tmp_path, "1.0.log", "a line\nand")
    assert read(source) == "half a line\n"
    assert source.rest() == b"and"


def test_a_line_without_end_is_not_kept_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path, "1.0.log", "x" * (5 * printed.PIECE))
    source = Source(path)
    source.rewind(1)
    assert len(read(source)) >= 4 * printed.PIECE


def test_a_file_that_vanishes_is_an_empty_one(tmp_path: Path) -> None:
    path = write(tmp_path, "1.0.log", numbered(1))
    source = Source(path)
    assert source.rewind(5) == 1
    path.unlink()
    assert read(source) == ""


def test_one_replica_needs_no_prefix(tmp_path: Path) -> None:
    write(tmp_path, "3.0.log", "hello\nhalf")
    assert last(tmp_path, 10) == "hello\nhalf\n"


def test_replicas_are_told_apart_and_each_has_its_share(tmp_path: Path) -> None:
    write(tmp_path, "3.0.log", numbered(1, 2, 3))
    write(tmp_path, "3.1.log", numbered(7, 8, 9))
    assert last(tmp_path, 2) == "3.0 line 2\n3.0 line 3\n3.1 line 8\n3.1 line 9\n"


def test_older_generations_fill_what_the_newest_has_not(tmp_path: Path) -> None:
    write(tmp_path, "9.0.log", numbered(1, 2))
    write(tmp_path, "10.0.log", numbered(3))
    assert last(tmp_path, 2) == "9.0 line 2\n10.0 line 3\n"
    assert last(tmp_path, 1) == "line 3\n"


def test_news_come_from_every_generation_old_and_new(tmp_path: Path) -> None:
    write(tmp_path, "1.0.log", numbered(1))
    write(tmp_path, "2.0.log", numbered(2))
    shown = Printed(lambda: output.files(tmp_path))
    assert b"".join(shown.last(1)).decode() == numbered(2)
    assert shown.news() == b""
    write(tmp_path, "1.0.log", "leaving\n")
    write(tmp_path, "3.0.log", "a new one\n")
    assert shown.news().decode() == "1.0 leaving\n3.0 a new one\n"


def test_a_backend_that_prints_faster_than_we_read_does_not_make_it_endless(tmp_path: Path) -> None:
    path = write(tmp_path, "1.0.log", numbered(1))
    shown = Printed(lambda: [path])
    pieces = []
    for piece in shown.last(5):
        pieces.append(piece)
        write(tmp_path, "1.0.log", numbered(2))
    assert len(pieces) == 1
