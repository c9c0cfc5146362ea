from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import trio

from proxy.control import command_check, reaper
from proxy.control.check import Subject
from proxy.core.address import Address
from proxy.core.template import Values
from proxy.kernel import pidfd, prctl, procfs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(autouse=True)
async def reaping() -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reaper.run)
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()
    prctl.set_child_subreaper(on=False)


def subject(folder: Path, **changes: Any) -> Subject:
    settings = {
        "address": Address(host="127.0.0.1", port=20001),
        "values": Values(version="v1", generation=2, replica=0, port=20001),
        "env": dict(os.environ),
        "cwd": folder,
    }
    return Subject(**{**settings, **changes})


async def run(folder: Path, script: str, **changes: Any) -> str:
    return await command_check.run(("sh", "-c", script), subject(folder, **changes))


async def gone(pid: int) -> None:
    """Killed it was; that takes effect when the kernel gets to it."""
    found = procfs.identify(pid)
    if found:
        await pidfd.wait_gone([found])


async def test_status_0_is_healthy_and_any_other_is_told_with_the_last_line(tmp_path: Path) -> None:
    assert await run(tmp_path, "echo fine") == ""
    assert await run(tmp_path, "echo first; echo 'no database' >&2; echo; exit 3") == "exit status 3: no database"
    assert await run(tmp_path, "exit 1") == "exit status 1"
    assert await run(tmp_path, "kill -ABRT $$") == "killed by SIGABRT"


async def test_the_program_learns_what_it_is_to_check(tmp_path: Path) -> None:
    script = "echo {port} {generation} $PORT $PROXY_ADDRESS $(pwd); exit 1"
    assert await run(tmp_path, script) == f"exit status 1: 20001 2 20001 127.0.0.1:20001 {tmp_path}"
    path = str(tmp_path / "a.sock")
    script = "echo $PROXY_ADDRESS; exit 1"
    assert await run(tmp_path, script, address=Address(path=path)) == f"exit status 1: unix:{path}"


async def test_a_program_that_is_missing_is_an_answer_too(tmp_path: Path) -> None:
    reason = await command_check.run(("no-such-check",), subject(tmp_path))
    assert reason == "cannot start no-such-check: no such file or directory"


async def test_a_program_that_prints_without_end_costs_no_memory(tmp_path: Path) -> None:
    reason = await run(tmp_path, "head -c 5000000 /dev/zero | tr '\\0' x; echo; echo last; exit 1")
    assert reason == "exit status 1: last"
    reason = await run(tmp_path, "head -c 300000 /dev/zero | tr '\\0' x; exit 1")
    assert reason == f"exit status 1: {'x' * 200}"


async def test_children_of_the_check_neither_delay_its_end_nor_outlive_it(tmp_path: Path) -> None:
    with trio.fail_after(10):
        reason = await run(tmp_path, "sleep 60 & echo $!; exit 1")
        await gone(int(reason.rpartition(" ")[2]))


async def test_a_check_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    with trio.move_on_after(0.3) as limit:
        await run(tmp_path, "trap '' TERM; sleep 60 & echo $! $$ > pids; wait")
    assert limit.cancelled_caught
    with trio.fail_after(10):
        for pid in (tmp_path / "pids").read_text().split():
            await gone(int(pid))
