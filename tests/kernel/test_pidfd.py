from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest
import trio

from proxy.kernel import pidfd, procfs
from proxy.kernel.procfs import ProcessId


def start(*command: str, **options: Any) -> subprocess.Popen[bytes]:
    """Plain Popen on purpose: the processes are to be no business of trio's."""
    return subprocess.Popen(command, **options)


def fork(*command: str) -> int:
    """A child that no Popen knows of."""
    return os.posix_spawnp(command[0], command, dict(os.environ))


def identity(child: subprocess.Popen[bytes]) -> ProcessId:
    found = procfs.identify(child.pid)
    assert found
    return found


async def test_a_signal_never_hits_a_process_that_took_over_the_pid() -> None:
    with start("sleep", "60") as child:
        real = identity(child)
        pidfd.send(ProcessId(real.pid, real.start_time - 1), signal.SIGKILL)
        assert child.poll() is None
        pidfd.send(real, signal.SIGTERM)
        await pidfd.wait_gone([real])
        assert child.wait() == -signal.SIGTERM


async def test_waiting_ends_with_the_last_of_several_processes() -> None:
    with start("sleep", "60") as one, start("sleep", "60") as two:
        both = [identity(one), identity(two)]
        with trio.move_on_after(0.02) as early:
            await pidfd.wait_gone(both)
        assert early.cancelled_caught
        one.kill()
        two.kill()
        with trio.fail_after(5):
            await pidfd.wait_gone(both)


async def test_a_process_that_is_gone_is_no_error() -> None:
    with start("true") as child:
        gone = identity(child)
    pidfd.send(gone, signal.SIGTERM)
    await pidfd.wait_gone([gone])


@pytest.mark.parametrize(("how", "code"), [("exit 3", 3), ("kill -9 $$", -9)])
async def test_the_status_of_a_child_that_was_taken_over_is_known(how: str, code: int) -> None:
    pid = fork("sh", "-c", how)
    found = procfs.identify(pid)
    assert found
    assert await pidfd.wait_exit_code(found) == code
    assert procfs.process(pid) is None


async def test_the_status_of_someone_elses_child_is_unknown() -> None:
    with start("sh", "-c", "sleep 0.05 & echo $!", stdout=subprocess.PIPE) as child:
        assert child.stdout
        grandchild = procfs.identify(int(child.stdout.readline()))
    assert grandchild
    assert await pidfd.wait_exit_code(grandchild) is None


def test_a_copy_of_a_childs_listening_socket_accepts_what_came_for_the_child() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address, inode = listener.getsockname(), os.fstat(listener.fileno()).st_ino
        child = start("sleep", "60", pass_fds=[listener.fileno()])
    with child:  # the child alone has it now
        try:
            held = procfs.sockets(child.pid)
            assert held
            copy = pidfd.duplicate(identity(child), held[inode])
            assert copy is not None
            assert not os.get_inheritable(copy)
            with (
                socket.socket(fileno=copy) as ours,
                socket.create_connection(address) as client,
                ours.accept()[0] as server,
            ):
                client.send(b"?")
                assert server.recv(1) == b"?"
        finally:
            child.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_nothing_is_copied_of_what_is_closed_or_of_a_process_that_is_gone_or_took_over_the_pid() -> None:
    with start("sleep", "60") as child:
        real = identity(child)
        assert pidfd.duplicate(real, 999) is None
        assert pidfd.duplicate(ProcessId(real.pid, real.start_time - 1), 0) is None
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert pidfd.duplicate(real, 0) is None  # a zombie
    assert pidfd.duplicate(real, 0) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")
def test_nothing_is_copied_from_another_users_process_and_that_is_said() -> None:
    code = f"""
import os
from proxy.kernel import pidfd, procfs
parent = procfs.identify({os.getpid()})
os.setuid(65534)
try:
    pidfd.duplicate(parent, 0)
except PermissionError as error:
    print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(errno.EPERM)
