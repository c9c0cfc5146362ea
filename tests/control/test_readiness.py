"""READY=1 of the wrong process, or one that is lost, switches to a version that does not serve, or never switches."""

from __future__ import annotations

import os
import pwd
import socket
import stat
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from proxy.control import notify_socket
from proxy.control.launch import User
from proxy.control.mark import Mark
from proxy.control.readiness import Readiness, parse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MARK = Mark("boot:1:2:/state", "web", 3, 1)
SAY = "import socket,sys; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', sys.argv[1])"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")


@pytest.fixture
async def bound(tmp_path: Path) -> AsyncIterator[Readiness]:
    created = notify_socket.bind(tmp_path, MARK, None)
    yield created
    created.close()


def say(to: Readiness, text: str | bytes, *descriptors: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect(str(to.path))
        socket.send_fds(sock, [text.encode() if isinstance(text, str) else text], list(descriptors))


def ours(pid: int) -> bool:
    return pid == os.getpid()


def nobody(_: int) -> bool:
    return False


async def test_everyone_who_waits_learns_that_it_is_ready(bound: Readiness) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(bound.wait, ours)
            await trio.testing.wait_all_tasks_blocked()
            say(bound, "READY=1")
    assert bound.is_ready


async def test_who_waits_learns_that_the_word_is_not_needed_any_more(bound: Readiness) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(bound.wait, ours)
            await trio.testing.wait_all_tasks_blocked()
            bound.settle()


async def test_a_waiter_that_gives_up_costs_the_others_nothing(bound: Readiness) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.01):
                await bound.wait(ours)
            nursery.start_soon(bound.wait, ours)
            await trio.testing.wait_all_tasks_blocked()
            say(bound, "READY=1")


async def test_what_another_process_says_does_not_count_and_is_told(bound: Readiness) -> None:
    say(bound, "STATUS=from elsewhere")
    say(bound, "READY=1")
    say(bound, "STATUS=more")
    with trio.move_on_after(0.2):
        await bound.wait(nobody)
    assert not bound.is_ready
    assert (bound.status, bound.stranger) == ("", os.getpid())


async def test_the_sender_is_who_the_kernel_says(bound: Readiness) -> None:
    asked = []

    def is_member(pid: int) -> bool:
        asked.append(pid)
        return True

    process = await trio.lowlevel.open_process([sys.executable, "-c", SAY, str(bound.path)])
    with trio.fail_after(30):
        await bound.wait(is_member)
        await process.wait()
    assert asked == [process.pid]


@pytest.mark.parametrize(
    "text",
    ["READY=0", "READY", "ready=1", "XREADY=1", " READY=1", "READY=1\0", "", "READY=1\nX=" + "x" * 5000],
)
async def test_only_the_very_word_counts(bound: Readiness, text: str) -> None:
    say(bound, text)
    say(bound, "STATUS=heard")
    with trio.move_on_after(0.2):
        await bound.wait(ours)
    assert not bound.is_ready
    assert bound.status == "heard"


def test_assignments_are_lines_and_what_cannot_be_shown_is_left_out() -> None:
    message = "STATUS=Loading \x1b[31mü\tkey=value\nMAINPID=7\nnothing\n=x\nSTATUS=" + "y" * 300
    assert parse(message.encode()) == {"STATUS": "y" * 200, "MAINPID": "7", "": "x"}
    assert parse(b"STATUS=a\x1b[31m\xff\tb") == {"STATUS": "a [31m\ufffd b"}


async def test_descriptors_that_come_along_are_closed_so_that_nobody_waits_for_it(bound: Readiness) -> None:
    """BARRIER=1 of sd_notify_barrier(3): the sender waits until its pipe is closed at our end."""
    before = set(os.listdir("/proc/self/fd"))
    reader, writer = os.pipe()
    say(bound, "BARRIER=1", writer, *[writer] * 20)
    os.close(writer)
    say(bound, "READY=1")
    with trio.fail_after(10):
        await bound.wait(ours)
        await trio.lowlevel.wait_readable(reader)
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert set(os.listdir("/proc/self/fd")) <= before


async def test_a_backend_that_goes_on_reporting_never_has_to_wait(bound: Readiness) -> None:
    say(bound, "READY=1")
    await bound.wait(ours)
    await _report_without_end(bound)


async def test_a_backend_that_nobody_listens_to_never_has_to_wait(bound: Readiness) -> None:
    for _ in range(5):
        say(bound, "STATUS=early")
    bound.settle()
    await _report_without_end(bound)


async def _report_without_end(bound: Readiness) -> None:
    def report() -> None:
        for number in range(1000):
            say(bound, f"STATUS={number}")
        reader, writer = os.pipe()
        say(bound, "BARRIER=1", writer)
        os.close(writer)
        assert os.read(reader, 1) == b""
        os.close(reader)

    with trio.fail_after(30):
        await trio.to_thread.run_sync(report)


async def test_its_socket_is_private_and_gone_in_the_end(tmp_path: Path) -> None:
    bound = notify_socket.bind(tmp_path, MARK, None)
    assert bound.path == tmp_path / "sockets" / "web.3.1.notify"
    assert stat.S_IMODE(bound.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(bound.path.parent.stat().st_mode) == 0o700
    bound.close()
    bound.close()
    assert not bound.path.exists()


async def test_the_next_start_takes_the_place_of_one_that_a_crash_left(tmp_path: Path) -> None:
    left = notify_socket.bind(tmp_path, MARK, None)
    assert left._socket
    left._socket.close()
    again = notify_socket.bind(tmp_path, MARK, None)
    say(again, "READY=1")
    with trio.fail_after(10):
        await again.wait(ours)
    again.close()


async def test_a_long_state_folder_still_gives_a_socket_that_can_be_reached(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    bound = notify_socket.bind(deep, MARK, None)
    assert len(str(bound.path)) <= 107
    say(bound, "READY=1")
    with trio.fail_after(10):
        await bound.wait(ours)
    bound.close()
    assert not bound.path.parent.exists()
    assert list((deep / "sockets").iterdir()) == []


async def test_a_state_folder_that_cannot_be_written_still_gives_a_socket(tmp_path: Path) -> None:
    (tmp_path / "sockets").touch()  # where a folder has to be
    bound = notify_socket.bind(tmp_path, MARK, None)
    say(bound, "READY=1")
    with trio.fail_after(10):
        await bound.wait(ours)
    bound.close()
    assert not bound.path.parent.exists()


@needs_root
async def test_another_user_can_speak_and_nobody_can_put_a_socket_of_his_own_there(tmp_path: Path) -> None:
    entry = pwd.getpwnam("nobody")
    bound = notify_socket.bind(tmp_path, MARK, User("nobody", entry.pw_uid, entry.pw_gid, ()))
    try:
        found, folder = bound.path.stat(), bound.path.parent.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (entry.pw_uid, entry.pw_gid, 0o600)
        assert (folder.st_uid, stat.S_IMODE(folder.st_mode)) == (0, 0o711)
        for uid, code in ((entry.pw_uid, 0), (12345, 1)):
            command = ["/usr/bin/env", "python3", "-I", "-c", SAY, str(bound.path)]
            done = await trio.run_process(command, user=uid, cwd="/", check=False, capture_stderr=True)
            assert done.returncode == code, done.stderr
    finally:
        bound.close()
    assert not bound.path.parent.exists()


@pytest.mark.parametrize("depth", [0, 100])
async def test_after_a_crash_of_the_proxy_what_a_backend_says_is_no_error_for_it(tmp_path: Path, depth: int) -> None:
    state_dir = tmp_path / ("x" * depth)
    earlier = notify_socket.bind(state_dir, MARK, None)
    assert earlier._socket
    earlier._socket.close()
    with pytest.raises(ConnectionRefusedError):
        say(earlier, "STATUS=x")
    found = notify_socket.take_over(state_dir, MARK)
    assert found
    assert found.is_ready
    await _report_without_end(earlier)
    found.close()
    assert not earlier.path.exists()
    assert notify_socket.take_over(state_dir, MARK) is None


async def test_a_folder_that_others_made_in_the_place_of_ours_is_left_alone(tmp_path: Path) -> None:
    """Temporary folders are emptied, and whoever comes first can have the name then."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "notify").write_text("mine")
    (tmp_path / "proxyctl-x").symlink_to(elsewhere)
    name = tmp_path / "sockets" / "web.3.1.notify"
    name.parent.mkdir()
    name.symlink_to(tmp_path / "proxyctl-x" / "notify")
    assert notify_socket.take_over(tmp_path, MARK) is None
    notify_socket.bind(tmp_path, MARK, None).close()
    assert (elsewhere / "notify").read_text() == "mine"
