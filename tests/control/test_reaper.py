from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
import trio

from proxy.control import reaper
from proxy.kernel import pidfd, prctl, procfs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def reaping() -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reaper.run)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()
    prctl.set_child_subreaper(on=False)


async def gone(pid: int) -> None:
    """Wait until the process is reaped, not only dead."""
    with trio.fail_after(10):
        while procfs.process(pid):
            await trio.sleep(0.01)


async def test_an_orphan_of_a_backend_does_not_stay_a_zombie(reaping: None) -> None:
    process = await reaper.spawn(["sh", "-c", "sleep 0.1 & echo $!"], stdout=subprocess.PIPE)
    assert process.stdout
    async with process.stdout:
        orphan = int(await process.stdout.receive_some())
    assert await process.wait() == 0
    found = procfs.process(orphan)
    assert found is None or found.ppid == os.getpid()
    await gone(orphan)


async def test_the_status_of_what_we_started_is_never_stolen(reaping: None) -> None:
    found = []

    async def run(status: int) -> None:
        process = await reaper.spawn(["sh", "-c", f"sleep 0.01 & exit {status}"])
        await trio.sleep(0.05)  # long dead when it is asked for
        found.append((status, await process.wait()))

    async with trio.open_nursery() as nursery:
        for status in range(30):
            nursery.start_soon(run, status)
    assert sorted(found) == [(status, status) for status in range(30)]


async def test_a_zombie_that_someone_awaits_does_not_hide_the_others_behind_it(reaping: None) -> None:
    awaited = await reaper.spawn(["true"])
    main = procfs.identify(awaited.pid)
    assert main
    await pidfd.wait_gone([main])
    orphan = os.posix_spawnp("true", ["true"], dict(os.environ))  # noqa: ASYNC221  # it does not wait
    await gone(orphan)
    assert await awaited.wait() == 0


async def test_a_program_that_cannot_be_started_is_an_error_beside_the_reaper(reaping: None) -> None:
    for _ in range(20):
        with pytest.raises(FileNotFoundError):
            await reaper.spawn(["no-such-program"])


async def test_the_book_of_children_does_not_grow_for_ever() -> None:
    for _ in range(3 * reaper._MANY):
        reaper.keep(procfs.ProcessId(2**22 + 1, len(reaper._awaited)))
    assert len(reaper._awaited) <= reaper._MANY
    reaper.reap()


async def test_a_reused_pid_is_reaped_although_its_former_owner_was_awaited(reaping: None) -> None:
    pid = os.posix_spawnp("sleep", ["sleep", "60"], dict(os.environ))  # noqa: ASYNC221  # it does not wait
    reaper.keep(procfs.ProcessId(pid, 1))
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
