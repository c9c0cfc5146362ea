from __future__ import annotations

import errno
import os
import pathlib
from typing import TYPE_CHECKING

import trio
from hypothesis import given
from hypothesis import strategies as st

from proxy.control import output
from proxy.control.output import LogFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest


def printed(file: Path, text: str) -> LogFile:
    """A file that a process has printed to."""
    log_file = LogFile(file)
    descriptor = log_file.open()
    os.write(descriptor, text.encode())
    os.close(descriptor)
    return log_file


@given(st.text(min_size=1, max_size=40))
def test_no_name_of_a_service_or_version_leaves_the_folder_or_hides(name: str) -> None:
    safe = output.safe_name(name)
    assert "/" not in safe
    assert "\0" not in safe
    assert not safe.startswith(".")


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_two_versions_never_share_a_folder(one: str, two: str) -> None:
    assert (output.safe_name(one) == output.safe_name(two)) == (one == two)


def test_ordinary_names_stay_readable(tmp_path: Path) -> None:
    expected = tmp_path / "output" / "web" / "2026-11-21_rc.1" / "3.0.log"
    assert output.path(tmp_path, "web", "2026-11-21_rc.1", 3, 0) == expected


def test_the_tail_is_the_last_lines_of_this_process_only(tmp_path: Path) -> None:
    printed(tmp_path / "1.0.log", "before\n")
    log_file = printed(tmp_path / "1.0.log", "one\ntwo\nthree")
    assert log_file.tail(2) == ("two", "three")
    assert log_file.tail(9) == ("one", "two", "three")
    assert log_file.tail(0) == ()


def test_the_tail_of_a_huge_output_is_bounded_and_starts_with_a_whole_line(tmp_path: Path) -> None:
    lines = [f"line {number}" for number in range(50_000)]
    log_file = printed(tmp_path / "1.0.log", "\n".join(lines))
    found = log_file.tail(10**6)
    assert list(found) == lines[-len(found) :]
    assert 1000 < len(found) < 20_000


def test_one_endless_line_is_cut(tmp_path: Path) -> None:
    assert [len(line) for line in printed(tmp_path / "1.0.log", "x" * 300_000).tail(5)] == [2000]


def test_bytes_that_are_no_text_do_not_hide_the_error_message(tmp_path: Path) -> None:
    (tmp_path / "1.0.log").write_bytes(b"\xff\xfe\nreal error\n")
    assert output.tail(tmp_path / "1.0.log", 1) == ("real error",)


def test_a_backend_that_has_printed_nothing_has_no_last_lines(tmp_path: Path) -> None:
    assert output.tail(tmp_path / "1.0.log", 5) == ()
    assert LogFile(tmp_path / "1.0.log").tail(5) == ()


def test_rotation_keeps_the_old_lines_and_the_backend_goes_on_writing(tmp_path: Path) -> None:
    log_file = LogFile(tmp_path / "1.0.log")
    descriptor = log_file.open()
    os.write(descriptor, b"old\n" * 10)
    assert not output.rotate(log_file.path, max_size=40)
    assert output.rotate(log_file.path, max_size=39)
    os.write(descriptor, b"new\n")
    os.close(descriptor)
    assert log_file.path.read_text() == "new\n"
    assert log_file.path.with_name("1.0.log.1").read_text() == "old\n" * 10
    assert log_file.tail(3) == ("old", "old", "new")


def test_the_tail_of_a_restarted_backend_survives_a_rotation(tmp_path: Path) -> None:
    printed(tmp_path / "1.0.log", "of the process before\n")
    log_file = printed(tmp_path / "1.0.log", "mine\n")
    assert output.rotate(log_file.path, max_size=1)
    assert log_file.tail(5) == ("mine",)


def test_a_second_rotation_replaces_the_first(tmp_path: Path) -> None:
    for text in ("one\n", "two\n"):
        log_file = printed(tmp_path / "1.0.log", text)
        assert output.rotate(log_file.path, max_size=1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["1.0.log", "1.0.log.1"]
    assert (tmp_path / "1.0.log.1").read_text() == "two\n"


def test_rotating_a_file_that_is_gone_does_nothing(tmp_path: Path) -> None:
    assert not output.rotate(tmp_path / "1.0.log")


def test_files_are_listed_oldest_first_with_generations_as_numbers(tmp_path: Path) -> None:
    names = ["2.0.log.1", "2.0.log", "2.1.log", "10.0.log"]
    for name in [*reversed(names), "notes.txt", "x.0.log", "3.0.log.1.new"]:
        (tmp_path / name).touch()
    assert [file.name for file in output.files(tmp_path)] == names
    assert output.files(tmp_path / "missing") == []


def test_only_the_newest_generations_of_a_service_keep_their_output(tmp_path: Path) -> None:
    for generation in range(1, 13):
        folder = tmp_path / f"commit-{generation // 2}"
        printed(folder / f"{generation}.0.log", "x")
        (folder / f"{generation}.1.log.1").touch()
    kept = {file.name.split(".")[0] for folder in tmp_path.iterdir() for file in output.files(folder)}
    assert kept == {str(generation) for generation in range(3, 13)}
    assert not (tmp_path / "commit-0").exists()


def test_a_backend_that_still_runs_keeps_its_output_however_many_came_after_it(tmp_path: Path) -> None:
    running = LogFile(tmp_path / "v1" / "1.0.log")
    descriptor = running.open()
    (tmp_path / "v1" / "1.0.log.1").touch()
    for generation in range(2, 20):
        printed(tmp_path / "v2" / f"{generation}.0.log", "x")
    assert [file.name for file in output.files(tmp_path / "v1")] == ["1.0.log.1", "1.0.log"]
    os.close(descriptor)
    output.prune(tmp_path)
    assert not (tmp_path / "v1").exists()


def test_files_of_other_people_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "notes.txt").touch()
    output.prune(tmp_path)
    assert (tmp_path / "v1" / "notes.txt").exists()


async def test_every_file_that_grows_too_big_is_rotated_in_time(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    small = printed(output.path(tmp_path, "web", "v1", 1, 0), "x")
    big = printed(output.path(tmp_path, "web", "v2", 2, 0), "x" * 100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.keep_rotated, tmp_path, 50)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert small.path.read_text() == "x"
    assert big.path.read_text() == ""


def test_a_full_disk_is_reported_and_neither_ends_the_rotation_nor_loses_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    big = printed(output.path(tmp_path, "web", "v1", 1, 0), "x" * 100)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", fail)
        output._rotate_all(tmp_path, 50)
    assert "cannot be rotated" in caplog.text
    assert [file.stat().st_size for file in big.path.parent.iterdir()] == [100]
    output._rotate_all(tmp_path, 50)
    assert big.path.stat().st_size == 0


async def test_a_folder_that_vanishes_while_it_is_looked_through_ends_no_rotation(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = printed(output.path(tmp_path, "web", "v1", 1, 0), "x" * 100)

    def vanish(*_: object) -> Iterator[Path]:
        yield big.path
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "glob", vanish)
        output._rotate_all(tmp_path, 50)
        output.prune(tmp_path / "output" / "web")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.keep_rotated, tmp_path, 50)
            await trio.sleep(60)
            patch.undo()
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
    assert big.path.read_text() == ""


def test_output_that_is_a_plain_file_where_a_folder_belongs_lists_as_empty(tmp_path: Path) -> None:
    (tmp_path / "v1").write_text("in the way")
    assert output.files(tmp_path / "v1") == []
