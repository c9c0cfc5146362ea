from __future__ import annotations

import errno
import os
import shlex
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio

from proxy.control import backend, mark, output, prober, reaper
from proxy.control.check import check
from proxy.control.ports import is_free
from proxy.core.address import Address
from proxy.errors import StartError
from proxy.kernel import inet_diag, procfs
from tests.control.world import SERVER, World, world
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as created:
        yield created


async def test_a_backend_gets_a_free_port_its_names_and_its_environment(here: World) -> None:
    script = 'env > env.txt; echo "{port} $PORT {version} {generation} {replica}" > words; exec sleep 60'
    started = await here.start(
        ("sh", "-c", script), generation=7, replica=2, version="v2", env={"URL": "http://127.0.0.1:{port}/", "A": "b=c"}
    )
    port = started.address.port
    assert started.address == Address(host="127.0.0.1", port=port)
    assert await here.text_of("words") == f"{port} {port} v2 7 2"
    environment = (here.folder / "env.txt").read_text().splitlines()
    expected = {
        f"PORT={port}",
        f"URL=http://127.0.0.1:{port}/",
        "A=b=c",
        "PROXY_SERVICE=web",
        "PROXY_VERSION=v2",
        "PROXY_GENERATION=7",
        "PROXY_REPLICA=2",
    }
    assert expected <= set(environment)
    assert f"PATH={os.environ['PATH']}" in environment


async def test_the_config_cannot_remove_what_finds_a_backend_again(here: World) -> None:
    started = await here.start(
        ("sh", "-c", "setsid sleep 60 & echo $! > pid; wait"), env={"PROXY_SUPERVISOR": "", "PROXY_SERVICE": "x"}
    )
    assert (await here.pid_of("pid")).pid in started.tree()


async def test_replicas_and_generations_never_share_a_port(here: World) -> None:
    backends = [await here.start("sleep 60", replica=replica) for replica in range(3)]
    assert len({each.address.port for each in backends}) == 3


async def test_a_backend_runs_in_a_session_of_its_own_and_without_our_descriptors(here: World) -> None:
    with socket.socket() as ours:
        os.set_inheritable(ours.fileno(), True)
        started = await here.start(("sh", "-c", "ls -l /proc/self/fd > fds; readlink /proc/self/fd/0 >> fds; sleep 60"))
        text = await here.text_of("fds")
    found = procfs.process(started.pid)
    assert found
    assert found.session == found.pgid == started.pid
    assert "socket:" not in text
    assert "/dev/null" in text


async def test_what_a_backend_prints_can_be_read_and_a_restart_tells_only_its_own(here: World) -> None:
    first = await here.start(("sh", "-c", "echo one; echo two >&2"))
    await first.exited()
    assert first.tail(10) == ("one", "two")
    again = await here.start(("sh", "-c", "echo three"))
    await again.exited()
    assert again.tail(10) == ("three",)
    (file,) = output.files(output.folder(here.state_dir, "web", "v1"))
    assert file.read_text() == "one\ntwo\nthree\n"


async def test_a_backend_may_print_to_the_proxys_own_output(here: World, capfd: pytest.CaptureFixture[str]) -> None:
    started = await here.start(("sh", "-c", "echo to the container"), output="inherit")
    await started.exited()
    assert capfd.readouterr().out == "to the container\n"
    assert started.tail(10) == ()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 3", "exited with status 3"),
        ("exit 0", "exited with status 0"),
        ("kill -TERM $$", "killed by SIGTERM"),
        ("kill -KILL $$", "killed by SIGKILL (out of memory? `dmesg` says)"),
    ],
)
async def test_how_a_backend_ended_is_told(here: World, script: str, words: str) -> None:
    started = await here.start(("sh", "-c", script))
    assert str(await started.exited()) == words


async def test_everyone_who_waits_for_the_exit_hears_of_it(here: World) -> None:
    started = await here.start("sleep 60")
    heard = []

    async def wait() -> None:
        heard.append((await started.exited()).code)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        started.signal(signal.SIGTERM)
    assert heard == [-signal.SIGTERM] * 3


async def test_a_backend_that_ends_in_time_is_not_killed(here: World) -> None:
    started = await here.start(("sh", "-c", "trap 'echo bye > bye; exit 0' TERM; echo on > on; sleep 60 & wait"))
    await here.text_of("on")
    await started.stop(signal.SIGTERM, 10)
    assert str(await started.exited()) == "exited with status 0"
    assert (here.folder / "bye").exists()


async def test_a_backend_that_ignores_the_signal_is_killed_with_its_children(here: World) -> None:
    script = "trap '' TERM; sleep 60 & echo $! > child; echo on > on; while :; do sleep 60; done"
    started = await here.start(("sh", "-c", script))
    child = await here.pid_of("child")
    await here.text_of("on")
    await started.stop(signal.SIGTERM, 0.1)
    assert str(await started.exited()) == "killed by SIGKILL"
    assert not procfs.is_running(child)


async def test_a_daemon_that_left_session_group_and_parent_dies_with_its_backend(here: World) -> None:
    daemon = "trap '' TERM; echo $$ > daemon; while :; do sleep 60; done"
    started = await here.start(("sh", "-c", f'(setsid sh -c "{daemon.replace("$", chr(92) + "$")}" &) ; sleep 60'))
    escaped = await here.pid_of("daemon")
    found = procfs.process(escaped.pid)
    assert found
    assert found.session != started.pid
    assert found.ppid == os.getpid()
    await started.stop(signal.SIGTERM, 0.1)
    assert not procfs.is_running(escaped)


async def test_a_daemon_outlives_its_starter_only_until_stop(here: World) -> None:
    started = await here.start(("sh", "-c", "(setsid sh -c 'echo $$ > daemon; exec sleep 60' &)"))
    assert (await started.exited()).is_clean
    daemon = await here.pid_of("daemon")
    assert procfs.is_running(daemon)
    await started.stop(signal.SIGTERM, 10)  # it obeys: no need to wait for SIGKILL
    assert not procfs.is_running(daemon)


async def test_a_daemon_that_wiped_its_environment_is_known_by_the_endpoint_it_listens_on(here: World) -> None:
    server = "env -i setsid $(which python3) -m http.server --bind 127.0.0.1 {port}"
    started = await here.start(("sh", "-c", f"({server} & echo $! > daemon)"), health={"type": "tcp"})
    await started.exited()
    daemon = await here.pid_of("daemon")
    await listening(here, started)
    await started.stop(signal.SIGTERM, 10)
    assert not procfs.is_running(daemon)
    assert is_free(started.address.port)


async def test_a_backend_that_keeps_forking_is_killed(here: World) -> None:
    # Three at a time, each of which leaves another one behind; it ends by itself, should nothing else end it.
    script = (
        "f() { [ $1 = 0 ] && return; sleep 0.02; (f $(($1 - 1))) & }; "
        "trap '' TERM; f 500; f 500; f 500; echo on > on; sleep 60"
    )
    started = await here.start(("sh", "-c", script), health={"type": "none"})
    await here.text_of("on")
    await started.stop(signal.SIGTERM, 0.2)
    assert started.tree() == set()


async def test_a_stopped_process_hears_the_signal_too(here: World) -> None:
    started = await here.start("sleep 60")
    started.signal(signal.SIGSTOP)
    await started.stop(signal.SIGTERM, 10)
    assert str(await started.exited()) == "killed by SIGTERM"


async def test_stopping_is_bounded_and_cancelling_does_not_leave_anything(here: World) -> None:
    started = await here.start(("sh", "-c", "trap '' TERM; echo on > on; while :; do sleep 60; done"))
    await here.text_of("on")
    with trio.move_on_after(0):
        await started.stop(signal.SIGTERM, 0.1)
    assert started.tree() == set()


async def test_stop_now_cuts_a_patient_stop_short(here: World) -> None:
    started = await here.start(("sh", "-c", "trap '' TERM; echo on > on; while :; do sleep 60; done"))
    await here.text_of("on")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(started.stop, signal.SIGTERM, 600)
            await trio.testing.wait_all_tasks_blocked()
            await started.stop(signal.SIGTERM, 0)


async def test_after_the_stop_port_and_socket_are_free_again(here: World) -> None:
    on_port = await here.start(SERVER, health={"type": "http"})
    redis = need("redis-server", package="redis-server")
    on_socket = await here.start((redis, "--port", "0", "--unixsocket", "{socket}", "--save", ""), replica=1)
    for each in (on_port, on_socket):
        await prober.wait_healthy(each, here.service(SERVER)[0].health)
        await each.stop(signal.SIGTERM, 10)
    assert is_free(on_port.address.port)
    assert not await trio.Path(on_socket.address.path).exists()


async def test_a_long_state_folder_still_gives_a_usable_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    async with world(deep) as here:
        started = await here.start(("sh", "-c", "echo {socket} > path; sleep 60"))
        assert await here.text_of("path") == started.address.path
        assert len(started.address.path) <= 107
    assert not await trio.Path(started.address.path).parent.exists()


@pytest.mark.parametrize(
    ("command", "message", "hint"),
    [
        (("no-such-program",), "command not found: no-such-program", "PATH"),
        (("./app",), "command not found: ./app", "working directory"),
        (("./plain",), "./plain may not be executed", "chmod"),
        (("./text",), "not a program this machine can run", "#!/bin/sh"),
        (("./lost",), "its interpreter /no/such does not exist", ""),
    ],
)
async def test_a_command_that_cannot_be_started_is_explained_and_takes_no_port(
    here: World, command: tuple[str, ...], message: str, hint: str
) -> None:
    for name, text, mode in [("plain", "x", 0o644), ("text", "x\n", 0o755), ("lost", "#!/no/such\n", 0o755)]:
        (here.folder / name).write_text(text)
        (here.folder / name).chmod(mode)
    with pytest.raises(StartError) as caught:
        await here.start(command)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert here.ports.in_use == set()


async def test_a_missing_working_directory_is_named(here: World) -> None:
    gone = here.folder / "gone"
    gone.mkdir()
    service, version = here.service("true", cwd=gone)
    gone.rmdir()
    with pytest.raises(StartError, match="gone does not exist"):
        await backend.start(service, version, 1, 0, state_dir=here.state_dir, ports=here.ports)


async def test_an_unknown_user_is_named(here: World) -> None:
    service, version = here.service("true")
    gone = version.model_copy(update={"user": "nobody-of-that-name"})  # deleted after the config was checked
    with pytest.raises(StartError, match='no user "nobody-of-that-name"'):
        await backend.start(service, gone, 1, 0, state_dir=here.state_dir, ports=here.ports)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")
async def test_a_backend_runs_as_the_user_with_its_groups_and_may_create_its_socket(here: World) -> None:
    code = "import os,socket,sys; s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); "
    code += "print(os.getresuid(), os.getgroups(), os.environ['USER'], flush=True); [s.accept() for _ in iter(int, 1)]"
    started = await here.start(("/usr/bin/env", "python3", "-c", code, "{socket}"), user="nobody", cwd="/")
    await prober.wait_healthy(started, here.service(SERVER, health={"type": "tcp"})[0].health)
    (line,) = started.tail(1)
    assert line.startswith("(65534, 65534, 65534) [65534] nobody")


async def test_what_a_crashed_run_left_behind_is_found_by_its_mark_and_killed(here: World) -> None:
    started = await here.start(
        # It says who it is once it is a session of its own: before that it is found as one of the shell's.
        ("sh", "-c", "trap '' TERM; setsid sh -c 'echo $$ > child; exec sleep 60' & wait; wait")
    )
    child = await here.pid_of("child")
    found = {each.process: each for each in mark.find(here.state_dir)}
    assert found.keys() == {started.record.identity, child}
    await backend.stop_marked(found[started.record.identity], signal.SIGTERM, 0.1)
    assert not procfs.is_running(child)
    assert not procfs.is_running(started.record.identity)


async def test_a_recorded_pid_that_another_process_has_by_now_is_left_alone(here: World) -> None:
    started = await here.start("sleep 60")
    record = started.record
    earlier = replace(record.mark, supervisor=f"boot:1:2:{here.state_dir}")
    other = mark.Marked(earlier, procfs.ProcessId(record.pid, record.start_time - 1), "v1", record.port)
    await backend.stop_marked(other, signal.SIGTERM, 0.1)
    assert procfs.is_running(started.record.identity)


async def test_what_an_earlier_run_did_not_record_is_found_by_its_mark(here: World) -> None:
    current = await here.start("sleep 60")
    left, other = [
        await reaper.spawn(["sleep", "60"], env={**os.environ, "PROXY_SUPERVISOR": f"boot:1:2:{state_dir}"})
        for state_dir in (here.state_dir, "/another/state")
    ]
    await backend.stop_unrecorded(here.state_dir, signal.SIGTERM, 10)
    assert await left.wait() == -signal.SIGTERM
    assert other.poll() is None
    assert procfs.is_running(current.record.identity)
    other.kill()
    await other.wait()


async def test_after_an_upgrade_a_backend_is_taken_over_with_its_exit_status(here: World) -> None:
    _, version = here.service("sleep 60")
    pid = fork("sh", "-c", "sleep 0.2; exit 5")
    identity = procfs.identify(pid)
    assert identity
    started = await here.start("sleep 60")
    record = {**started.record.to_json(), "pid": pid, "start_time": identity.start_time}
    adopted = backend.adopt(backend.Record(**record), version, state_dir=here.state_dir, ports=here.ports)
    assert adopted
    here.started.append(adopted)
    assert str(await adopted.exited()) == "exited with status 5"


async def test_a_backend_that_ended_meanwhile_is_not_taken_over(here: World) -> None:
    _, version = here.service("true")
    started = await here.start("true")
    await started.exited()
    assert backend.adopt(started.record, version, state_dir=here.state_dir, ports=here.ports) is None


async def test_a_child_that_ends_while_another_starts_is_not_mixed_up(here: World) -> None:
    statuses = []

    async def run(status: int) -> None:
        started = await here.start(("sh", "-c", f"(setsid true &); exit {status}"), replica=status)
        statuses.append((status, (await started.exited()).code))

    async with trio.open_nursery() as nursery:
        for status in range(20):
            nursery.start_soon(run, status)
    assert sorted(statuses) == [(status, status) for status in range(20)]


def fork(*command: str) -> int:
    """A child that no Popen knows of, as after an exec of this process."""
    return os.posix_spawnp(command[0], command, dict(os.environ))


async def listening(here: World, started: backend.Backend) -> None:
    """Wait until something answers at the endpoint, whoever it is."""
    health = here.service("true", health={"type": "tcp"})[0].health
    with trio.fail_after(10):
        while not (await check(health, started.subject)).healthy:
            await trio.sleep(0.02)


# With the public listener (datapath "inherit").

ACTIVATED = (sys.executable, str(Path(__file__).with_name("activated.py")))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as created:
        created.setblocking(False)
        yield created


def inode(listener: socket.socket) -> int:
    return os.fstat(listener.fileno()).st_ino


async def talk(listener: socket.socket) -> trio.SocketStream:
    """Connect; whoever accepts says a word first."""
    return await trio.open_tcp_stream(*listener.getsockname()[:2])


async def test_a_backend_accepts_on_the_public_listener_and_takes_no_port(here: World, listener: socket.socket) -> None:
    started = await here.start((*ACTIVATED, "v1"), listeners=[listener])
    with trio.fail_after(10):
        await started.ready()
        async with await talk(listener) as client:
            assert await client.receive_some() == b"v1"
    assert started.inherits
    assert started.is_ready()
    assert str(started.address) == f"127.0.0.1:{listener.getsockname()[1]}"
    assert started.record.port is None
    assert here.ports.in_use == set()
    assert started.tail(1) == ("web",)
    assert not {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"} & started.subject.env.keys()


async def test_what_it_listens_on_and_says_ready_to_is_gone_with_it_but_not_the_public_socket(here: World) -> None:
    path = here.folder / "public.sock"
    with socket.socket(socket.AF_UNIX) as public:
        public.bind(str(path))
        public.listen()
        started = await here.start((*ACTIVATED, "v1"), listeners=[public])
        assert started.address == Address(path=str(path))
        assert len(list((here.state_dir / "sockets").iterdir())) == 1
        await started.stop(signal.SIGTERM, 10)
        assert path.exists()
        assert list((here.state_dir / "sockets").iterdir()) == []


async def test_a_backend_that_asks_for_a_port_has_one_beside_the_listener(here: World, listener: socket.socket) -> None:
    started = await here.start(
        ("sh", "-c", "echo {port} $PORT {fd} $LISTEN_FDS > words; exec sleep 60"), listeners=[listener]
    )
    port = started.record.port
    assert started.address == Address(host="127.0.0.1", port=port or 0)
    assert await here.text_of("words") == f"{port} {port} 3 1"
    assert started.inherits
    assert started.has_own_endpoint


async def test_all_listeners_are_passed_on_under_the_name_of_the_service(here: World, listener: socket.socket) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as second:
        started = await here.start((*ACTIVATED, "v1"), listeners=[listener, second])
        with trio.fail_after(10):
            await started.ready()
            for each in (listener, second):
                async with await talk(each) as client:
                    assert await client.receive_some() == b"v1"
        assert started.tail(1) == ("web:web",)


async def test_a_child_may_say_it_is_ready_for_its_parent(here: World, listener: socket.socket) -> None:
    started = await here.start((*ACTIVATED, "v1", "child"), listeners=[listener])
    with trio.fail_after(10):
        await started.ready()


async def test_nobody_else_can_say_it_is_ready(here: World, listener: socket.socket) -> None:
    started = await here.start((*ACTIVATED, "v1", "silent"), listeners=[listener])
    (path,) = (here.state_dir / "sockets").iterdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"READY=1", str(path))
    with trio.move_on_after(0.3):
        await started.ready()
    assert not started.is_ready()
    assert started.said() == ("", os.getpid())


async def test_it_has_let_go_when_the_last_of_its_processes_has_closed_the_listener(
    here: World, listener: socket.socket
) -> None:
    script = f"sleep 60 & echo $! > child; exec {shlex.join((*ACTIVATED, 'v1'))}"
    started = await here.start(("sh", "-c", script), listeners=[listener])
    with trio.fail_after(10):
        await started.ready()
    async with trio.open_nursery() as nursery:
        gone = trio.Event()

        @nursery.start_soon
        async def wait() -> None:
            await started.lets_go([inode(listener)])
            gone.set()

        os.kill(started.pid, signal.SIGUSR1)  # it closes the listener, but its child has it too
        with trio.move_on_after(0.3):
            await gone.wait()
        assert not gone.is_set()
        os.kill((await here.pid_of("child")).pid, signal.SIGKILL)
        with trio.fail_after(10):
            await gone.wait()
    assert procfs.is_running(started.record.identity)


async def test_it_has_let_go_when_it_has_ended(here: World, listener: socket.socket) -> None:
    started = await here.start((*ACTIVATED, "v1"), listeners=[listener])
    async with trio.open_nursery() as nursery:
        with trio.fail_after(10):
            nursery.start_soon(started.lets_go, [inode(listener)])
            await trio.testing.wait_all_tasks_blocked(0.05)
            started.signal(signal.SIGKILL)


async def test_its_connections_are_counted_as_long_as_they_live(here: World, listener: socket.socket) -> None:
    started = await here.start((*ACTIVATED, "v1"), listeners=[listener])
    other = await here.start((*ACTIVATED, "v2", "silent"), replica=1, listeners=[listener])
    with trio.fail_after(10):
        await started.ready()
        clients = [await talk(listener) for _ in range(5)]
        for client in clients:
            await client.receive_some()
        assert started.connections() + other.connections() == 5
        assert started.connections([Address(host="127.0.0.1", port=1)]) == 0
        other.signal(signal.SIGTERM)
        started.signal(signal.SIGTERM)  # it closes the listener, and waits for them
        await started.lets_go([inode(listener)])
        await other.lets_go([inode(listener)])
        assert started.connections() + other.connections() == 5
        for client in clients:
            await client.aclose()
        await started.exited()
        await other.exited()
    assert started.connections() == 0


async def test_connections_to_a_public_unix_socket_are_counted_too(here: World) -> None:
    with socket.socket(socket.AF_UNIX) as public:
        public.bind(str(here.folder / "public.sock"))
        public.listen()
        started = await here.start((*ACTIVATED, "v1"), listeners=[public])
        with trio.fail_after(10):
            await started.ready()
            async with await trio.open_unix_socket(str(here.folder / "public.sock")) as client:
                await client.receive_some()
                assert started.connections() == 1


async def test_without_sock_diag_the_connections_are_counted_all_the_same(
    here: World, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> NoReturn:
        raise OSError(errno.ENOENT, "no such family")

    monkeypatch.setattr(inet_diag, "connections", refuse)
    started = await here.start((*ACTIVATED, "v1"), listeners=[listener])
    with trio.fail_after(10):
        await started.ready()
        async with await talk(listener) as client:
            await client.receive_some()
            assert started.connections() == 1
    assert started.connections([Address(host="127.0.0.1", port=1)]) == 0


async def test_a_backend_with_the_listener_is_taken_over_and_counts_as_ready(
    here: World, listener: socket.socket
) -> None:
    _, version = here.service(ACTIVATED)
    first = await here.start((*ACTIVATED, "v1", "busy"), listeners=[listener])
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.ready)
        await here.text_of("said")
    (path,) = (here.state_dir / "sockets").iterdir()
    given = first._given
    assert given
    given.readiness._close_socket()  # as the end of a control process does
    adopted = backend.adopt(first.record, version, state_dir=here.state_dir, ports=here.ports)
    assert adopted
    here.started.append(adopted)
    assert adopted.inherits
    assert not adopted.has_own_endpoint
    assert adopted.is_ready()
    with trio.fail_after(10):
        await adopted.ready()
        async with await talk(listener) as client:
            await client.receive_some()
            assert adopted.connections() == 1
        adopted.signal(signal.SIGTERM)  # it says STOPPING=1, and fails if it cannot
        await adopted.lets_go([inode(listener)])
        assert (await first.exited()).is_clean
    await adopted.stop(signal.SIGTERM, 10)
    assert not path.exists()


async def test_a_backend_with_a_port_and_the_listener_is_taken_over_as_such(
    here: World, listener: socket.socket
) -> None:
    _, version = here.service("sleep {port}")
    for listeners in ([listener], []):
        first = await here.start(("sh", "-c", "exec sleep 6{port}"), listeners=listeners)
        adopted = backend.adopt(first.record, version, state_dir=here.state_dir, ports=here.ports)
        assert adopted
        assert adopted.inherits == bool(listeners)
        assert adopted.has_own_endpoint
        await first.stop(signal.SIGKILL, 0)
        await adopted.stop(signal.SIGKILL, 0)


async def test_a_command_that_cannot_be_started_leaves_no_socket(here: World, listener: socket.socket) -> None:
    with pytest.raises(StartError, match="command not found: no-such-program"):
        await here.start(("no-such-program",), listeners=[listener])
    assert list((here.state_dir / "sockets").iterdir()) == []


async def test_stopping_one_leaves_others_who_listen_alone(here: World, listener: socket.socket) -> None:
    """A daemon of another generation may have become our child, and it listens on the same public socket."""
    daemon = f"setsid {shlex.join((*ACTIVATED, 'v1', 'wrong-pid'))} & echo $! > daemon"
    other = await here.start(("sh", "-c", f"({daemon}); sleep 60"), replica=1, listeners=[listener])
    started = await here.start((*ACTIVATED, "v2"), listeners=[listener])
    pid = await here.pid_of("daemon")
    with trio.fail_after(10):
        await other.ready()
        await started.ready()
    await started.stop(signal.SIGTERM, 10)
    assert procfs.is_running(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")
async def test_another_user_gets_the_listener_and_can_say_it_is_ready(here: World, listener: socket.socket) -> None:
    code = "import os,socket as s,sys; l=s.socket(fileno=3); l.setblocking(True); "
    code += "s.socket(s.AF_UNIX,s.SOCK_DGRAM).sendto(b'READY=1',os.environ['NOTIFY_SOCKET']); "
    code += "c=l.accept()[0]; c.sendall(str(os.getresuid()).encode()); c.recv(1)"
    started = await here.start(
        ("/usr/bin/env", "python3", "-I", "-c", code), user="nobody", cwd="/", listeners=[listener]
    )
    with trio.fail_after(10):
        await started.ready()
        async with await talk(listener) as client:
            path = trio.Path(procfs.environ(started.pid)["NOTIFY_SOCKET"])
            assert await client.receive_some() == b"(65534, 65534, 65534)"
    await started.stop(signal.SIGTERM, 10)
    assert not await path.parent.exists()


async def _answers(listener: socket.socket) -> bytes:
    async with await talk(listener) as client:
        await client.send_all(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        async for data in client:
            answer += data
        return answer


async def test_gunicorn_takes_the_listener_and_says_when_it_is_ready(here: World, listener: socket.socket) -> None:
    pytest.importorskip("gunicorn")
    (here.folder / "app.py").write_text("def app(_, start):\n    start('200 OK', [])\n    return [b'from v1']\n")
    # A worker that is still coming up does not hear the signal, and is killed when the grace is over.
    options = ("--workers", "2", "--no-control-socket", "--graceful-timeout", "2")
    command = (sys.executable, "-m", "gunicorn", "app:app", *options)
    started = await here.start(command, listeners=[listener])
    with trio.fail_after(30):
        await started.ready()
        assert (await _answers(listener)).endswith(b"from v1")
        started.signal(signal.SIGTERM)
        await started.lets_go([inode(listener)])


async def test_uvicorn_takes_the_listener_by_its_number(here: World, listener: socket.socket) -> None:
    pytest.importorskip("uvicorn")
    lines = ["async def app(scope, receive, send):", "    start = {'type': 'http.response.start', 'status': 200}"]
    lines += ["    if scope['type'] == 'http':", "        await send(start)"]
    lines += ["        await send({'type': 'http.response.body', 'body': b'from v1'})"]
    (here.folder / "app.py").write_text("\n".join(lines))
    command = (sys.executable, "-m", "uvicorn", "app:app", "--fd", "{fd}", "--lifespan", "off")
    started = await here.start(command, listeners=[listener])
    with trio.fail_after(30):
        assert b"from v1" in await _answers(listener)
        started.signal(signal.SIGTERM)
        await started.lets_go([inode(listener)])
