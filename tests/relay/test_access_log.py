"""The access log on real files, pipes and full disks."""
# ruff: noqa: ASYNC240  # what is looked at here are files, and they are small

from __future__ import annotations

import json
import os
import select
import socket
import stat
import subprocess
import sys
import textwrap
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from proxy.relay import access_log
from proxy.relay.access_log import AccessLog, Entry, format_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

PATIENCE = 20.0
ROOT = Path(__file__).parents[2]

SAMPLE = Entry(
    time=1700000000.25,
    client="203.0.113.7",
    method="GET",
    target="/a?b",
    status=200,
    bytes=1234,
    duration=0.0015,
    service="web",
    version="v2",
    generation=7,
    replica=0,
    retried=False,
    migrated=True,
)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "GATHER", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    made = tmp_path / "fifo"
    os.mkfifo(made)
    return made


def numbered(number: int, **changed: Any) -> Entry:
    return SAMPLE._replace(generation=number, **changed)


def parsed(data: bytes) -> list[int]:
    """Which entries these bytes hold; each line must be whole, but for one that is being written."""
    return [json.loads(line)["generation"] for line in data[: data.rfind(b"\n") + 1].splitlines()]


def numbers(*paths: Path) -> list[int]:
    return [number for each in paths if each.exists() for number in parsed(each.read_bytes())]


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[AccessLog]:
    """A log that is open and written; at the end what is waiting has been flushed."""
    made = AccessLog(path)
    made.open()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            yield made
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await trio.sleep(0.005)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, Any]]]:
    return [(record.message, getattr(record, "facts", {})) for record in caplog.records]


# Lines


def test_a_line_has_the_documented_keys_in_their_order() -> None:
    line = format_line(SAMPLE)
    assert line == (
        b'{"time":"2023-11-14T22:13:20.250Z","client":"203.0.113.7","method":"GET","target":"/a?b","status":200,'
        b'"bytes":1234,"duration":0.001500,"service":"web","version":"v2","generation":7,"replica":0,'
        b'"retried":false,"migrated":true}\n'
    )
    nowhere = SAMPLE._replace(client="", version="", generation=0, replica=None, status=0, retried=True)
    assert json.loads(format_line(nowhere)) == json.loads(line) | {
        "client": "", "version": "", "generation": 0, "replica": None, "status": 0, "retried": True,
    }  # fmt: skip


NAMES = st.text(alphabet="aZ09._+-", max_size=64)
TARGETS = st.text(st.characters(max_codepoint=255)) | st.text(
    st.sampled_from('a"\\\n\xff'), min_size=480, max_size=5000
)


@given(TARGETS, NAMES, st.integers(0, 2**63), st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)))  # noqa: DTZ001
def test_whatever_a_client_sends_makes_one_line_that_can_be_read(
    target: str, name: str, size: int, when: datetime
) -> None:
    when = when.replace(tzinfo=UTC)
    entry = SAMPLE._replace(time=when.timestamp(), target=target, bytes=size, version=name, service=name)
    line = format_line(entry)
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
    read = json.loads(line)
    assert (read["bytes"], read["version"], read["service"]) == (size, name, name)
    assert abs(datetime.fromisoformat(read["time"]) - when) <= timedelta(milliseconds=1)
    if len(target) <= 500:
        assert read["target"] == target


@pytest.mark.parametrize("letter", ["a", '"', "\xff", "\x00"])
def test_a_line_fits_into_a_pipe_in_one_piece_so_that_workers_do_not_mix_theirs(letter: str) -> None:
    longest = SAMPLE._replace(
        target="/" + letter * 70_000,
        client="ffff:" * 7 + "ffff",
        method="M" * 64,
        service="s" * 64,
        version="v" * 64,
        bytes=10**18,
        duration=10.0**9,
        generation=10**9,
        replica=10**9,
    )
    line = format_line(longest)
    assert len(line) <= select.PIPE_BUF
    target = json.loads(line)["target"]
    assert target.endswith(letter + "…"), "that something is missing has to show"
    assert longest.target.startswith(target[:-1])


def test_a_long_target_that_is_plain_is_kept_whole() -> None:
    target = "/" + "a" * 2900
    assert json.loads(format_line(SAMPLE._replace(target=target)))["target"] == target


# Files


async def test_requests_are_in_the_file_soon_and_in_their_order(path: Path) -> None:
    async with running(path) as log:
        for number in range(1000):
            log.write(numbered(number))
        await until(lambda: numbers(path) == list(range(1000)))
        log.write(numbered(1000))
        await until(lambda: numbers(path) == list(range(1001)))


async def test_what_a_former_run_wrote_is_kept(path: Path) -> None:
    path.write_bytes(format_line(numbered(1)))
    async with running(path) as log:
        log.write(numbered(2))
    assert numbers(path) == [1, 2]


async def test_others_on_the_machine_cannot_read_who_was_here(path: Path) -> None:
    async with running(path):
        assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0


async def test_a_path_that_cannot_be_written_shows_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AccessLog(tmp_path / "missing" / "access.log").open()
    with pytest.raises(IsADirectoryError):
        AccessLog(tmp_path).open()
    with pytest.raises(RuntimeError, match="not open"):
        await AccessLog(tmp_path / "access.log").run()


async def test_what_is_waiting_when_the_worker_ends_is_written(path: Path) -> None:
    async with running(path) as log:
        for number in range(5000):
            log.write(numbered(number))
    assert numbers(path) == list(range(5000))


async def test_a_worker_that_ends_does_not_wait_for_lines_to_gather(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "GATHER", 10 * PATIENCE)
    async with running(path) as log:
        log.write(numbered(1))
        await trio.testing.wait_all_tasks_blocked()
    assert numbers(path) == [1]


async def test_the_descriptor_is_given_back_and_not_inherited(path: Path) -> None:
    def held() -> list[int]:
        found = []
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{name}") == str(path):
                    found.append(int(name))
            except FileNotFoundError:
                pass
        return found

    async with running(path):
        [fd] = held()
        assert not os.get_inheritable(fd)
    assert held() == []


# Rotation


async def test_after_a_rotation_lines_are_in_the_new_file(path: Path) -> None:
    moved = path.with_suffix(".1")
    async with running(path) as log:
        log.write(numbered(1))
        await until(lambda: numbers(path) == [1])
        path.rename(moved)
        log.write(numbered(2))
        await until(lambda: numbers(path) == [2])
        path.unlink()
        path.touch()  # as logrotate's "create" does
        log.write(numbered(3))
        await until(lambda: numbers(path) == [3])
    assert numbers(moved) == [1]


async def test_no_line_is_lost_or_doubled_by_rotations_under_load(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "GATHER", 0)
    parts = [path.with_suffix(f".{number}") for number in range(20)]
    total = 0
    async with running(path) as log:
        for part in parts:
            while not path.exists() or not path.stat().st_size:
                log.write(numbered(total))
                total += 1
                await trio.lowlevel.checkpoint()
            path.rename(part)
        log.write(numbered(total))
    assert numbers(*parts, path) == list(range(total + 1))


async def test_a_file_that_cannot_be_opened_again_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "access.log"
    async with running(path) as log:
        folder.rename(tmp_path / "away")
        for number in range(3):
            log.write(numbered(number))
        await until(lambda: caplog.records)
        (tmp_path / "away").rename(folder)
        log.write(numbered(3))
        await until(lambda: numbers(path) == [3])
    assert said(caplog) == [
        ("access log loses lines", {"path": path, "error": "No such file or directory"}),
        ("access log works again", {"path": path, "lost": 3}),
    ]


# Several workers

WRITER = """
    import sys, trio
    from pathlib import Path
    from proxy.relay.access_log import AccessLog, Entry

    async def main(path, first):
        log = AccessLog(Path(path))
        log.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.run)
            for number in range(int(first), int(first) + 3000):
                target = "/" + "x" * (number % 1500)
                log.write(Entry(0, "", "GET", target, 200, 1, 0, "web", "v", number, 0, False, False))
                if number % 100 == 0:
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()

    trio.run(main, *sys.argv[1:])
"""


def start(code: str, *arguments: object, **streams: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, **streams)


def test_workers_that_share_a_file_never_mix_their_lines(path: Path) -> None:
    writers = [start(WRITER, path, first) for first in (0, 3000, 6000)]
    assert [writer.wait(PATIENCE) for writer in writers] == [0, 0, 0]
    assert sorted(numbers(path)) == list(range(9000))


@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
def test_standard_output_works_whatever_it_is(kind: str, path: Path) -> None:
    if kind == "pipe":
        out, _ = start(WRITER, "/dev/stdout", 0, stdout=subprocess.PIPE).communicate(timeout=PATIENCE)
    elif kind == "socket":  # systemd's journal
        ours, theirs = socket.socketpair()
        with ours, theirs:
            writer = start(WRITER, "/dev/stdout", 0, stdout=theirs)
            theirs.close()
            with ours.makefile("rb") as stream:
                out = stream.read()
            assert writer.wait(PATIENCE) == 0
    else:
        with path.open("wb") as file:
            assert start(WRITER, "/dev/stdout", 0, stdout=file).wait(PATIENCE) == 0
        out = path.read_bytes()
    assert parsed(out) == list(range(3000))


# Pipes


class Reader:
    """Somebody who reads a pipe, without waiting."""

    def __init__(self, fifo: Path) -> None:
        self._fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        self._data = b""

    def read(self) -> bytes:
        """Read what there is; return everything so far."""
        try:
            while more := os.read(self._fd, 1 << 20):
                self._data += more
        except BlockingIOError:
            pass
        return self._data

    def numbers(self) -> list[int]:
        return parsed(self.read())

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


@pytest.fixture
def readers(fifo: Path) -> Iterator[Callable[[], Reader]]:
    made: list[Reader] = []

    def make() -> Reader:
        made.append(Reader(fifo))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_workers_that_share_a_pipe_never_mix_their_lines(fifo: Path, readers: Callable[[], Reader]) -> None:
    reader = readers()
    writers = [start(WRITER, fifo, first) for first in (0, 3000, 6000)]
    deadline = time.monotonic() + PATIENCE
    while reader.read().count(b"\n") < 9000 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert [writer.wait(PATIENCE) for writer in writers] == [0, 0, 0]
    assert sorted(reader.numbers()) == list(range(9000))


async def test_readers_of_a_pipe_may_come_late_and_change_without_losing_a_line(
    fifo: Path, readers: Callable[[], Reader]
) -> None:
    async with running(fifo) as log:
        log.write(numbered(1))
        await trio.testing.wait_all_tasks_blocked()
        first = readers()
        await until(lambda: first.numbers() == [1])
        first.close()
        log.write(numbered(2))
        second = readers()
        await until(lambda: second.numbers() == [2])


async def test_a_pipe_that_nobody_reads_holds_up_no_client_and_memory_stays_bounded(
    fifo: Path, readers: Callable[[], Reader], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 1 << 20
    monkeypatch.setattr(access_log, "WAITING", limit)
    line = len(format_line(numbered(10_000)))
    total = 2 * limit // line
    async with running(fifo) as log:
        for number in range(10_000, 10_000 + total):
            log.write(numbered(number))
            if number % 100 == 0:
                await trio.lowlevel.checkpoint()
        assert [message for message, _ in said(caplog)] == ["access log loses lines"]
        reader = readers()
        await until(lambda: reader.read() and not log._waiting)
        log.write(numbered(1))
        await until(lambda: reader.read().endswith(format_line(numbered(1))))
    got = len(reader.numbers()) - 1
    assert got * line <= limit + (1 << 17), "more was kept than is allowed, and a pipe holds"
    assert said(caplog)[1:] == [("access log works again", {"path": fifo, "lost": total - got})]


async def test_a_worker_ends_though_nobody_reads_its_pipe(
    fifo: Path, readers: Callable[[], Reader], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access_log, "FLUSH", 0.05)
    async with running(fifo) as log:
        for number in range(2000):
            log.write(numbered(number))
    assert [message for message, _ in said(caplog)] == ["access log ends before all is written"]
    reader = readers()  # lets the thread end that this test leaves behind
    await until(lambda: reader.numbers() == list(range(2000)))


# Full disks


async def test_a_full_disk_is_said_once_and_so_is_that_it_works_again(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []
    append = access_log._File.append

    def counted(file: Any, lines: list[bytes]) -> Any:
        done = append(file, lines)
        tries.append(done)
        return done

    monkeypatch.setattr(access_log._File, "append", counted)
    path.symlink_to("/dev/full")
    async with running(path) as log:
        for number in range(3):
            log.write(numbered(number))
            await until(lambda number=number: len(tries) > number)
        replacement = tmp_path / "link"
        replacement.symlink_to(tmp_path / "disk")
        replacement.replace(path)
        log.write(numbered(3))
        await until(lambda: len(caplog.records) == 2)
        log.write(numbered(4))
    assert numbers(tmp_path / "disk") == [3, 4]
    assert said(caplog) == [
        ("access log loses lines", {"path": path, "error": "No space left on device"}),
        ("access log works again", {"path": path, "lost": 3}),
    ]


async def test_lines_that_were_lost_to_the_very_end_are_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.symlink_to("/dev/full")
    async with running(path) as log:
        log.write(numbered(1))
    assert said(caplog)[-1] == ("access log lost lines", {"path": path, "lost": 1})


SHORT = """
    import resource, sys
    from pathlib import Path
    from proxy.relay.access_log import Entry, _File, format_line

    entry = Entry(0, "", "GET", "/", 200, 1, 0, "web", "v", 5, 0, False, False)
    line = format_line(entry)
    file = _File(Path(sys.argv[1]))
    room = len(line) * 5 // 2  # as on a disk with little space, the kernel takes a part
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    written, error = file.append([line] * 4)
    assert written == 2 and error is not None, (written, error)
    written, error = file.append([line])
    assert written == 0 and error is not None, (written, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert file.append([line] * 3) == (3, None)
"""


def test_a_line_that_was_cut_by_a_full_disk_does_not_spoil_the_next(path: Path) -> None:
    assert start(SHORT, path).wait(PATIENCE) == 0
    lines = path.read_bytes().splitlines()
    assert len(lines) == 6
    whole = format_line(Entry(0, "", "GET", "/", 200, 1, 0, "web", "v", 5, 0, False, False)).strip()
    assert [line == whole for line in lines] == [True, True, False, True, True, True]
