from __future__ import annotations

import os
import signal
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from proxy.control import backend, mark, output, prober, reaper
from proxy.control.check import check
from proxy.control.ports import is_free
from proxy.core.address import Address
from proxy.errors import StartError
from proxy.kernel import procfs
from tests.control.world import SERVER, World, world
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


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
    started = await here.start(("sh", "-c", "trap '' TERM; setsid sleep 60 & echo $! > child; wait; wait"))
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
