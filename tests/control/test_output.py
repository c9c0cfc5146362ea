from __future__ import annotations

import errno
import os
import pathlib
import shutil
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from proxy.control import output
from proxy.control.output import LogFile
from proxy.control.trouble import Troubles
from proxy.kernel import fallocate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = printed(output.path(tmp_path, "web", "v1", 1, 0), "x" * 100)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", fail)
        failed = output._rotate_all(tmp_path, 50)
    assert failed
    assert failed[0] == big.path
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


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in a thread takes no time: the clock of the tests would go on meanwhile."""

    async def run_sync(function: Callable[..., object], *arguments: object) -> object:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


@pytest.mark.usefixtures("no_threads")
async def test_a_rotation_that_fails_each_time_is_said_once_and_that_it_works_again(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    printed(output.path(tmp_path, "web", "v1", 1, 0), "x" * 100)
    troubles = Troubles()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with trio.open_nursery() as nursery:
        with monkeypatch.context() as patch:
            patch.setattr("shutil.copyfileobj", fail)
            nursery.start_soon(partial(output.keep_rotated, tmp_path, 50, troubles=troubles))
            await trio.sleep(60)
        assert "cannot be rotated: Input/output error" in troubles.describe()[0]["message"]
        assert len(caplog.records) == 1
        await trio.sleep(60)
        assert not troubles.active()["output"]
        nursery.cancel_scope.cancel()


def test_on_a_full_disk_old_output_is_given_up_so_that_the_file_does_not_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = printed(tmp_path / "1.0.log", "x" * 300_000 + "\nthe last words\n")
    (tmp_path / "1.0.log.1").write_text("older")
    copy = shutil.copyfileobj

    def only_little_fits(source: BinaryIO, target: BinaryIO, size: int) -> None:
        if (tmp_path / "1.0.log.1").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(source, target, size)

    monkeypatch.setattr(shutil, "copyfileobj", only_little_fits)
    assert output.rotate(big.path, 1000)
    assert big.path.stat().st_size == 0
    assert (tmp_path / "1.0.log.1").stat().st_size <= 64 * 1024
    assert output.tail(big.path, 1) == ("the last words",)


@pytest.mark.usefixtures("no_threads")
async def test_output_that_was_lost_is_said_in_the_log_once_the_disk_is_well_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    (tmp_path / "output").touch()  # a file where a folder has to be
    troubles = Troubles()
    file = LogFile(output.path(tmp_path, "web", "v1", 1, 0), troubles)
    os.close(file.open())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(output.keep_rotated, tmp_path, troubles=troubles))
        await trio.sleep(60)
        assert troubles.active()["output"]
        (tmp_path / "output").unlink()
        await trio.sleep(60)
        assert not troubles.active()["output"]
        nursery.cancel_scope.cancel()
    assert "`proxyctl restart`" in file.tail(1)[0]


def test_a_process_that_is_started_again_and_heard_ends_the_trouble(tmp_path: Path) -> None:
    (tmp_path / "v1").touch()
    troubles = Troubles()
    file = LogFile(tmp_path / "v1" / "1.0.log", troubles)
    os.close(file.open())
    assert troubles.active()["output"]
    (tmp_path / "v1").unlink()
    os.close(file.open())
    assert not troubles.active()["output"]


def test_a_full_disk_is_noticed_before_the_program_dies_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fallocate, "reserve", fail)
    troubles = Troubles()
    descriptor = LogFile(tmp_path / "v1" / "1.0.log", troubles).open()
    assert os.readlink(f"/proc/self/fd/{descriptor}") == os.devnull
    os.close(descriptor)
    assert troubles.active()["output"]
