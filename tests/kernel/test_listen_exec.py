"""Between fork and exec: a mistake here is a backend without its listener, or one that runs as root."""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import pwd
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.kernel import listen_exec
from tests.tools import need

SOURCE = Path(listen_exec.__file__).read_text(encoding="utf-8")


def run(
    *command: str,
    programs: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    sockets: tuple[socket.socket, ...] = (),
    user: tuple[int, int, list[int]] | None = None,
    by: tuple[str, ...] = (),
) -> tuple[int, str, str]:
    """The pid, what came back over the channel, and what the program printed."""
    ours, theirs = socket.socketpair()
    copies = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 3 + len(sockets)) for each in (theirs, *sockets)]
    plan = (
        [os.fsencode(each) for each in programs or command[:1]],
        [os.fsencode(word) for word in command],
        {os.fsencode(name): os.fsencode(value) for name, value in (env or {}).items()},
        copies[1:],
        user,
    )
    process = subprocess.Popen(
        [*by, sys.executable, "-I", "-S", "-c", SOURCE, str(copies[0])],
        pass_fds=copies,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env={"LANG": "C", "SECRET": "the proxy's own"},
    )
    with ours, process:
        theirs.close()
        for copy in copies:
            os.close(copy)
        ours.sendall(marshal.dumps(plan))
        ours.shutdown(socket.SHUT_WR)
        answer = b""
        while data := ours.recv(100):
            answer += data
        output, _ = process.communicate(timeout=30)
    return process.pid, answer.decode(), output


def test_the_program_finds_the_listeners_from_descriptor_3_on_and_no_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        inodes = [os.fstat(each.fileno()).st_ino for each in (one, two)]
        # The descriptor of the folder that `ls` reads comes last.
        _, answer, output = run(
            "/bin/sh", "-c", "readlink /proc/self/fd/3 /proc/self/fd/4; ls /proc/$$/fd", sockets=(one, two)
        )
    assert answer == "!"
    assert output.split() == [*(f"socket:[{inode}]" for inode in inodes), "0", "1", "2", "3", "4"]


def test_the_program_finds_its_own_pid_and_nothing_of_the_proxys_environment() -> None:
    pid, answer, output = run("/usr/bin/env", env={"A": "b=c", "LISTEN_FDS": "0"})
    assert answer == "!"
    assert sorted(output.splitlines()) == ["A=b=c", "LISTEN_FDS=0", f"LISTEN_PID={pid}"]


def test_bytes_that_are_no_text_reach_the_program_as_they_are() -> None:
    word = os.fsdecode(b"\xff\xfe")
    _, _, output = run(
        "/bin/sh", "-c", 'printf %s "$1$A" | od -An -tx1', "sh", word, env={"A": word, "PATH": "/usr/bin:/bin"}
    )
    assert output.split() == ["ff", "fe", "ff", "fe"]


def test_no_signal_is_ignored_that_python_ignores() -> None:
    _, _, output = run("/bin/grep", "SigIgn", "/proc/self/status")
    ignored = int(output.split()[1], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


@pytest.mark.parametrize(
    ("programs", "number"),
    [
        (("/no/such", "/etc/passwd/x"), errno.ENOTDIR),
        (("/etc/passwd", "/no/such"), errno.EACCES),
        (("/no/such",), errno.ENOENT),
    ],
)
def test_what_keeps_the_program_from_starting_is_told(programs: tuple[str, ...], number: int) -> None:
    _, answer, _ = run("app", programs=programs)
    assert answer == f"!{number}"


def test_the_first_program_that_can_be_run_is_taken() -> None:
    _, answer, output = run("app", "hello", programs=("/etc/passwd", "/no/such", "/bin/echo"))
    assert (answer, output) == ("!", "hello\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")
def test_it_becomes_the_user_with_its_groups_and_no_way_back() -> None:
    nobody = pwd.getpwnam("nobody")
    _, answer, output = run(
        "/bin/grep",
        "-E",
        "^(Uid|Gid|Groups|CapEff|CapPrm)",
        "/proc/self/status",
        user=(nobody.pw_uid, nobody.pw_gid, [4, nobody.pw_gid]),
    )
    uid, gid = str(nobody.pw_uid), str(nobody.pw_gid)
    lines = dict(line.split(":\t", 1) for line in output.splitlines())
    assert answer == "!"
    assert lines["Uid"].split() == [uid] * 4
    assert lines["Gid"].split() == [gid] * 4
    assert lines["Groups"].split() == ["4", gid]
    assert int(lines["CapEff"], 16) == int(lines["CapPrm"], 16) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give up a right of root's")
def test_a_user_that_one_may_not_become_is_told_before_anything_runs() -> None:
    setpriv = need("setpriv", package="util-linux")
    _, answer, output = run("/bin/echo", "hello", user=(1, 1, []), by=(setpriv, "--bounding-set=-setuid"))
    assert (answer, output) == (str(errno.EPERM), "")
