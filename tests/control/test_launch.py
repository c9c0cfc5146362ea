from __future__ import annotations

import errno
import os
import pwd
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from proxy.control import launch, reaper
from proxy.control.output import LogFile
from proxy.control.trouble import Troubles
from proxy.errors import StartError
from proxy.kernel import procfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")


def test_a_user_comes_with_its_groups_and_what_programs_look_for() -> None:
    this = pwd.getpwuid(os.geteuid())
    for name in (this.pw_name, str(this.pw_uid)):
        user = launch.find_user(name)
        assert (user.name, user.uid, user.gid) == (this.pw_name, this.pw_uid, this.pw_gid)
        assert user.gid in user.groups
        assert user.environment == {"HOME": this.pw_dir, "USER": this.pw_name, "LOGNAME": this.pw_name}


def test_without_root_another_user_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StartError, match="only root may start processes of other users") as caught:
        launch.find_user("nobody")
    assert "leave `user` out" in caught.value.hint


def test_an_unknown_user_is_named() -> None:
    with pytest.raises(StartError, match='there is no user "nobody-of-that-name"'):
        launch.find_user("nobody-of-that-name")


async def test_a_backend_starts_although_its_output_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "web").touch()  # a file where a folder has to be
    troubles = Troubles()
    log_file = LogFile(tmp_path / "web" / "v1" / "1.0.log", troubles)
    process = await launch.launch(("sleep", "60"), env=os.environ, cwd=tmp_path, user=None, log_file=log_file)
    prints_to = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (1, 2)]
    process.kill()
    await process.wait()
    assert prints_to == ["/dev/null", "/dev/null"]
    (trouble,) = troubles.describe()
    assert trouble["message"] == "what a backend prints is not kept (output/web/v1/1.0.log): Not a directory"
    assert "proxyctl restart" in trouble["hint"]
    assert log_file.tail(5) == ()


async def test_without_descriptors_a_backend_does_not_start_and_the_error_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    log_file = LogFile(tmp_path / "1.0.log")
    monkeypatch.setattr(log_file, "open", fail)
    with pytest.raises(StartError, match=r"cannot write the output of the backend to .*1\.0\.log: Too many open files"):
        await launch.launch(("true",), env=os.environ, cwd=tmp_path, user=None, log_file=log_file)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as created:
        yield created


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    for name, text, mode in [("plain", "x", 0o644), ("text", "x\n", 0o755), ("lost", "#!/no/such\n", 0o755)]:
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed" / "app").symlink_to("/bin/true")
    tmp_path.chmod(0o755)
    return tmp_path


COMMANDS = [
    "no-such-program",
    "./app",
    "./plain",
    "./text",
    "./lost",
    "plain",
    "closed",
    "./closed/app",
    "/etc/passwd/x",
]


@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=needs_root)])
@pytest.mark.parametrize("program", COMMANDS)
async def test_a_command_that_cannot_be_started_is_explained_as_without_a_listener(
    programs: Path, listener: socket.socket, program: str, user: str
) -> None:
    async def error(*listeners: socket.socket) -> tuple[str, str] | None:
        found = launch.find_user(user) if user else None
        env = {**os.environ, "PATH": f"{programs}:/no/such:{os.environ['PATH']}"}
        try:
            process = await launch.launch(
                (program, "x"), env=env, cwd=programs, user=found, log_file=None, listeners=listeners
            )
        except StartError as error:
            return error.message, error.hint
        await process.wait()
        return None

    explained = await error()
    assert explained or (program == "./closed/app" and not user)  # root may run that
    assert await error(listener) == explained


async def test_nothing_is_left_of_a_command_that_could_not_be_started(tmp_path: Path, listener: socket.socket) -> None:
    # The tests before may have left the browser that they share.
    descriptors, children = sorted(os.listdir("/proc/self/fd")), procfs.children(os.getpid())
    with pytest.raises(StartError):
        await launch.launch(("no-such",), env=os.environ, cwd=tmp_path, user=None, log_file=None, listeners=[listener])
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    assert procfs.children(os.getpid()) == children


async def test_a_listener_reaches_the_program_with_all_that_was_meant_for_it(
    tmp_path: Path, listener: socket.socket
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "LD_LIBRARY_PATH": "/no/such",
        "PYTHONHOME": "/no/such",
        "BIG": "x" * 90_000,
    }
    script = 'env > env.txt; readlink /proc/self/fd/3 > fd.txt; echo "$$" "$@" > words.txt; ulimit -n > limit.txt'
    process = await launch.launch(
        ("sh", "-c", script, "sh", "a  b"),
        env=environment,
        cwd=tmp_path,
        user=None,
        log_file=None,
        listeners=[listener],
    )
    assert await process.wait() == 0
    seen = dict(line.split("=", 1) for line in (tmp_path / "env.txt").read_text().splitlines())
    for name in ("PWD", "SHLVL", "_", "OLDPWD"):  # of the shell
        seen.pop(name, None)
    assert seen == {**environment, "LISTEN_PID": str(process.pid)}
    assert (tmp_path / "fd.txt").read_text() == f"socket:[{os.fstat(listener.fileno()).st_ino}]\n"
    assert (tmp_path / "words.txt").read_text() == f"{process.pid} a  b\n"


async def test_many_listeners_keep_their_order(tmp_path: Path) -> None:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(20)]
    command = ("sh", "-c", "for n in $(seq 3 22); do readlink /proc/self/fd/$n; done > fds.txt")
    process = await launch.launch(
        command, env=os.environ, cwd=tmp_path, user=None, log_file=None, listeners=sockets[::-1]
    )
    assert await process.wait() == 0
    inodes = [f"socket:[{os.fstat(each.fileno()).st_ino}]" for each in sockets[::-1]]
    for each in sockets:
        each.close()
    assert (tmp_path / "fds.txt").read_text().split() == inodes


async def test_a_library_of_the_config_is_not_loaded_with_the_rights_of_the_proxy(
    tmp_path: Path, listener: socket.socket
) -> None:
    """LD_DEBUG makes the dynamic loader of whoever has it in its environment print to stderr."""
    log_file = LogFile(tmp_path / "1.0.log")
    process = await launch.launch(
        ("true",),
        env={**os.environ, "LD_DEBUG": "libs"},
        cwd=tmp_path,
        user=None,
        log_file=log_file,
        listeners=[listener],
    )
    await process.wait()
    printed = log_file.path.read_text()
    assert "true" in printed
    assert "python" not in printed


async def test_a_start_that_is_cancelled_meanwhile_is_seen_through(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a process would run that nobody knows of."""
    spawn = reaper.spawn

    async def spawn_and_cancel(*arguments: Any, **options: Any) -> trio.Process:
        process = await spawn(*arguments, **options)
        scope.cancel()
        return process

    monkeypatch.setattr(reaper, "spawn", spawn_and_cancel)
    with trio.CancelScope() as scope:
        process = await launch.launch(
            ("sleep", "60"), env=os.environ, cwd=tmp_path, user=None, log_file=None, listeners=[listener]
        )
    assert procfs.command_line(process.pid) == "sleep 60"
    process.kill()
    await process.wait()


async def test_a_python_that_is_gone_is_told_as_such(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(StartError, match="cannot run /no/such/python, which is to pass the listeners on") as caught:
        await launch.launch(("true",), env=os.environ, cwd=tmp_path, user=None, log_file=None, listeners=[listener])
    assert "removed" in caught.value.hint
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StartError, match=r"cannot start true: /bin/false, which was to run it, exited with status 1"):
        await launch.launch(("true",), env=os.environ, cwd=tmp_path, user=None, log_file=None, listeners=[listener])
