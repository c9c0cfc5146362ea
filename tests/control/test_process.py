"""Processes that another control process started: what can be known of them, and done to them."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from proxy.control import reaper
from proxy.control.process import Adopted
from proxy.kernel import pidfd, prctl, procfs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def child(script: str) -> procfs.ProcessId:
    """A child that no Popen belongs to, as an exec of new code leaves one."""
    pid = os.posix_spawnp("sh", ["sh", "-c", script], os.environ)
    found = procfs.identify(pid)
    assert found
    return found


@pytest.fixture
async def orphan() -> AsyncIterator[procfs.ProcessId]:
    """One that is not our child, as a crash of control leaves it to init."""
    told = await trio.run_process(["sh", "-c", "sleep 60 >/dev/null & echo $!"], capture_stdout=True)
    found = procfs.identify(int(told.stdout))
    assert found
    yield found
    pidfd.send(found, signal.SIGKILL)


async def test_the_exit_status_of_a_child_is_known_to_everyone_who_waits() -> None:
    adopted = Adopted(child("exit 5"))
    seen: list[int | None] = []

    async def wait() -> None:
        seen.append(await adopted.wait())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
    assert (seen, adopted.returncode) == ([5, 5, 5], 5)
    assert procfs.process(adopted.pid) is None, "nobody else would reap it"


async def test_a_child_is_killed() -> None:
    adopted = Adopted(child("exec sleep 60"))
    assert adopted.returncode is None
    adopted.kill()
    with trio.fail_after(10):
        assert await adopted.wait() == -signal.SIGKILL
    adopted.kill()  # it is gone, and so is the meaning of its pid


async def test_a_child_that_ended_during_the_upgrade_still_says_how() -> None:
    identity = child("exit 7")
    with trio.fail_after(10):
        await pidfd.wait_gone([identity])
        assert await Adopted(identity).wait() == 7


async def test_the_reaper_leaves_the_exit_status_of_a_child_to_whoever_adopted_it() -> None:
    adopted = Adopted(child("exit 9"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reaper.run)
        with trio.fail_after(10):
            await pidfd.wait_gone([adopted.identity])
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert await adopted.wait() == 9
        nursery.cancel_scope.cancel()
    prctl.set_child_subreaper(on=False)


async def test_after_a_crash_the_end_is_seen_and_the_status_is_not_known(orphan: procfs.ProcessId) -> None:
    adopted = Adopted(orphan)
    adopted.kill()
    with trio.fail_after(10):
        assert await adopted.wait() is None
    assert not procfs.is_running(orphan)


async def test_a_process_that_is_gone_already_has_ended() -> None:
    identity = child("true")
    with trio.fail_after(10):
        assert await pidfd.wait_exit_code(identity) == 0
        assert await Adopted(identity).wait() is None


async def test_whoever_has_the_pid_by_now_is_not_killed() -> None:
    other = child("exec sleep 60")
    adopted = Adopted(procfs.ProcessId(other.pid, other.start_time - 1))
    adopted.kill()
    with trio.fail_after(10):
        assert await adopted.wait() is None
    assert procfs.is_running(other)
    pidfd.send(other, signal.SIGKILL)
    assert await pidfd.wait_exit_code(other) == -signal.SIGKILL


async def test_a_wait_that_is_called_off_leaves_the_end_to_the_next() -> None:
    adopted = Adopted(child("exec sleep 60"))
    with trio.move_on_after(0.01) as scope:
        await adopted.wait()
    assert scope.cancelled_caught
    adopted.kill()
    with trio.fail_after(10):
        assert await adopted.wait() == -signal.SIGKILL
