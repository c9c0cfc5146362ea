from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.kernel import procfs
from proxy.kernel.procfs import Process, ProcessId

GONE = 2**22 + 1  # above the highest pid there can be (proc(5), pid_max)


def made_up(pid: int, ppid: int) -> Process:
    return Process(pid=pid, name="x", state="S", ppid=ppid, pgid=pid, session=pid, start_time=pid)


@given(st.text(alphabet="ab ()Z\n", max_size=15))
def test_a_program_cannot_hide_behind_a_name_with_parentheses(name: str) -> None:
    rest = "S 7 8 9 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 3 0 12345 0"
    assert procfs.parse_stat(f"42 ({name}) {rest}") == Process(42, name, "S", 7, 8, 9, 12345, threads=3)


def test_this_process_is_found_with_its_parent_group_and_session() -> None:
    this = procfs.processes()[os.getpid()]
    assert (this.ppid, this.pgid, this.session) == (os.getppid(), os.getpgrp(), os.getsid(0))
    assert procfs.is_running(this.id)


def test_a_reused_pid_is_not_taken_for_the_process_that_had_it() -> None:
    this = procfs.identify(os.getpid())
    assert this
    assert not procfs.is_running(ProcessId(this.pid, this.start_time - 1))


def test_a_zombie_does_not_count_as_running_but_is_still_a_child() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        zombie = procfs.process(child.pid)
        assert zombie
        assert zombie.is_dead
        assert not procfs.is_running(zombie.id)
        assert child.pid in procfs.children(os.getpid())
        assert procfs.command_line(child.pid) == "true"


def test_a_program_whose_first_thread_has_ended_still_runs_as_its_others_hold_what_it_has_open() -> None:
    code = """
import ctypes, os, threading, time
threading.Thread(target=lambda: (print(flush=True), time.sleep(60))).start()
ctypes.CDLL(None).syscall({"x86_64": 60}.get(os.uname().machine, 93), 0)  # exit(2): of this thread alone
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        identity = procfs.identify(child.pid)
        assert identity
        assert child.stdout
        child.stdout.readline()
        while (process := procfs.process(child.pid)) and process.state != "Z":
            os.sched_yield()
        assert process
        assert procfs.is_running(identity)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not procfs.is_running(identity)


def test_nothing_fails_on_a_process_that_is_gone() -> None:
    assert procfs.process(GONE) is None
    assert procfs.command_line(GONE) == ""
    assert procfs.environ(GONE) == {}
    assert procfs.socket_inodes(GONE) == set()
    assert procfs.sockets(GONE) == {}
    assert procfs.uid(GONE) is None
    assert procfs.children(GONE) == set()


def test_environment_and_command_line_are_those_the_process_was_started_with() -> None:
    command = ["cat", "-u", "-"]
    with subprocess.Popen(
        command, env={"A": "b=c", "EMPTY": ""}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        try:
            # Once it answers it runs: in the middle of execve(2) there is a moment without arguments and environment.
            child.stdin.write(b"?")
            child.stdin.flush()
            assert child.stdout.read(1) == b"?"
            assert procfs.command_line(child.pid) == "cat -u -"
            assert procfs.environ(child.pid) == {"A": "b=c", "EMPTY": ""}
            assert procfs.uid(child.pid) == os.geteuid()
        finally:
            child.kill()


def test_a_process_that_replaces_its_program_is_not_without_its_environment_for_a_moment() -> None:
    """Else a backend that starts by a wrapper, which a crash has left behind, may not be found by its mark."""
    environment = {"MARK": "ours", "AGAIN": 'sleep 0.004; exec sh -c "$AGAIN"'}
    with subprocess.Popen(["sh", "-c", environment["AGAIN"]], env=environment) as child:
        found = {procfs.environ(child.pid).get("MARK") for _ in range(3000)}
        child.kill()
    assert found == {"ours"}


def test_grandchildren_are_descendants_and_strangers_are_not() -> None:
    table = {pid: made_up(pid, ppid) for pid, ppid in [(1, 0), (2, 1), (3, 2), (4, 3), (5, 1)]}
    assert procfs.descendants(table, [2]) == {2, 3, 4}
    assert procfs.descendants(table, [9]) == set()
    assert procfs.ancestors(table, 4) == {4, 3, 2, 1}


@given(st.dictionaries(st.integers(1, 30), st.integers(0, 30)))
def test_no_shape_of_a_changing_process_table_makes_the_walk_endless(parents: dict[int, int]) -> None:
    table = {pid: made_up(pid, ppid) for pid, ppid in parents.items()}
    for pid in table:
        assert pid in procfs.descendants(table, [pid])
        assert pid in procfs.ancestors(table, pid)


def test_the_owners_of_a_socket_are_all_that_hold_it() -> None:
    with socket.socket() as mine:
        inode = os.fstat(mine.fileno()).st_ino
        with subprocess.Popen(["sleep", "60"], pass_fds=[mine.fileno()]) as child:
            try:
                assert inode in (procfs.socket_inodes(os.getpid()) or ())
                assert procfs.socket_owners([inode]) == {inode: {os.getpid(), child.pid}}
            finally:
                child.kill()


def test_the_descriptor_that_a_process_has_a_socket_as_is_found() -> None:
    with socket.socket() as one, socket.socket() as two, open(os.devnull, "rb"):
        held = procfs.sockets(os.getpid())
        assert held
        for each in (one, two):
            assert held[os.fstat(each.fileno()).st_ino] == each.fileno()
        assert set(held) == procfs.socket_inodes(os.getpid())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")
def test_descriptors_of_another_user_are_unknown_not_none_at_all() -> None:
    code = f"import os; from proxy.kernel import procfs; os.setuid(65534); print(procfs.socket_inodes({os.getpid()}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "None"


def test_a_stopped_process_is_not_dead() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        stopped = procfs.process(child.pid)
        child.kill()
        assert stopped
        assert stopped.state == "T"
        assert not stopped.is_dead


def test_the_boot_id_is_that_of_this_boot() -> None:
    assert procfs.boot_id() == procfs.boot_id() != ""
