from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from proxy.control import family as family_module
from proxy.control.family import Family
from proxy.control.mark import Mark
from proxy.kernel import pidfd, procfs
from proxy.kernel.procfs import Process, ProcessId

if TYPE_CHECKING:
    from pathlib import Path

MARK = Mark("boot:1:2:/state", "web", 1, 0)


def table_of(*rows: tuple[int, int, int, int]) -> dict[int, Process]:
    """From (pid, ppid, session, start time)."""
    return {
        pid: Process(pid=pid, name="x", state="S", ppid=ppid, pgid=session, session=session, start_time=start)
        for pid, ppid, session, start in rows
    }


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, str]]:
    found: dict[int, dict[str, str]] = {}
    monkeypatch.setattr(procfs, "environ", lambda pid: found.get(pid, {}))
    return found


def members(family: Family, table: dict[int, Process], monkeypatch: pytest.MonkeyPatch) -> set[int]:
    monkeypatch.setattr(procfs, "processes", lambda: table)
    return {member.pid for member in family.members()}


def test_children_session_and_marked_orphans_belong_and_nobody_else(
    environments: dict[int, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    main = (100, os.getpid(), 100, 50)
    child, in_session, orphan = (101, 100, 101, 51), (102, 1, 100, 52), (103, os.getpid(), 103, 53)
    older, stranger, ours = (99, 1, 99, 40), (104, 1, 104, 54), (os.getpid(), 1, 1, 10)
    environments[103] = {**MARK.environment(), "A": "b"}
    environments[99] = environments[os.getpid()] = MARK.environment()
    family = Family([ProcessId(100, 50)], MARK)
    table = table_of(main, child, in_session, orphan, older, stranger, ours)
    assert members(family, table, monkeypatch) == {100, 101, 102, 103}


def test_who_was_seen_once_belongs_although_nothing_shows_it_any_more(
    environments: dict[int, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = Family([ProcessId(100, 50)], MARK)
    assert members(family, table_of((100, 1, 100, 50), (101, 100, 101, 51)), monkeypatch) == {100, 101}
    assert members(family, table_of((101, 1, 101, 51)), monkeypatch) == {101}
    assert members(family, table_of((101, 1, 101, 99)), monkeypatch) == set()  # the pid is someone else's now


def test_a_new_session_under_the_number_of_the_old_one_is_not_ours(
    environments: dict[int, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = Family([ProcessId(100, 50)], MARK)
    assert members(family, table_of((100, 1, 100, 70), (101, 1, 100, 71)), monkeypatch) == set()


def test_another_replicas_processes_are_not_touched(
    environments: dict[int, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    environments[103] = {**MARK.environment(), "PROXY_REPLICA": "1"}
    environments[104] = {**MARK.environment(), "PROXY_SUPERVISOR": "boot:1:3:/state"}
    family = Family([ProcessId(100, 50)], MARK)
    assert members(family, table_of((103, 1, 103, 60), (104, 1, 104, 61)), monkeypatch) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")
def test_another_user_cannot_pass_for_a_backend_by_copying_its_environment() -> None:
    this = procfs.identify(os.getpid())
    assert this
    family = Family([ProcessId(2**22 + 1, this.start_time)], MARK)
    for user, counted in ((65534, False), (os.geteuid(), True)):
        done = subprocess.run(
            ["sh", "-c", "sleep 60 >&- & echo $!"], env=MARK.environment() | {"PATH": os.defpath}, user=user,
            stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        orphan = procfs.identify(int(done.stdout))
        assert orphan
        try:
            assert (orphan in family.members()) is counted
        finally:
            pidfd.send(orphan, signal.SIGKILL)


def test_a_proxy_that_was_started_from_a_leftover_shell_kills_neither_itself_nor_the_shell(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from proxy.control.family import Family
from proxy.control.mark import EarlierRun
print(*(member.pid for member in Family([], EarlierRun(Path(sys.argv[1]))).members()))
"""
    script = 'sleep 60 >&- & echo $!; "$@"; kill $!'
    done = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PROXY_SUPERVISOR": f"boot:1:2:{tmp_path}"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    sibling, found = done.stdout.splitlines()
    assert found == sibling


async def test_what_may_not_be_signalled_is_reported_and_the_stop_still_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(family_module, "KILL_TIMEOUT", 0.05)
    monkeypatch.setattr(pidfd, "send", refuse)
    monkeypatch.setattr(os, "killpg", refuse)
    async with trio.open_nursery() as nursery:
        process = await nursery.start(sleeping)
        main = procfs.identify(process.pid)
        assert main
        left = await Family([main], MARK).stop(signal.SIGTERM, trio.CancelScope(deadline=trio.current_time() + 0.05))
        assert left == {main}
        assert "may not be signalled" in caplog.text
        process.kill()


async def sleeping(*, task_status: trio.TaskStatus[trio.Process]) -> None:
    await trio.run_process(["sleep", "60"], start_new_session=True, check=False, task_status=task_status)
