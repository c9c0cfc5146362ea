"""Health over time: the counting and the pace on a mock clock with a fake backend, the rest with real processes."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio

from proxy.config.settings import Health
from proxy.control import prober
from proxy.control.check import CheckResult, Subject
from proxy.control.exits import Exit
from proxy.core.address import Address
from proxy.core.template import Values
from proxy.errors import StartError
from tests.control.world import SERVER, World, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trio.testing import MockClock

OK = CheckResult(healthy=True)
REFUSED = CheckResult(healthy=False, reason="connection refused")


class FakeBackend:
    """A backend whose checks have the answers that a test gives it; the last one stays."""

    def __init__(self, *answers: CheckResult, owner: str | StartError | OSError = "") -> None:
        self.subject = Subject(Address(host="127.0.0.1", port=1), Values(version="v1", generation=1, replica=0))
        self.answers = list(answers)
        self.owner = owner
        self.checked: list[float] = []
        self.ended = trio.Event()
        self.moves: list[bool] = []
        self.move_to: list[Address] = []

    async def probe(self, _: Health, __: Subject) -> CheckResult:
        await trio.lowlevel.checkpoint()
        self.checked.append(round(trio.current_time(), 3))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def exited(self) -> Exit:
        await self.ended.wait()
        return Exit(3)

    async def check_owner(self) -> str:
        await trio.lowlevel.checkpoint()
        if isinstance(self.owner, StartError | OSError):
            raise self.owner
        return self.owner

    async def refresh(self, *, move_on: bool) -> bool:
        await trio.lowlevel.checkpoint()
        self.moves.append(move_on)
        if not self.move_to:
            return False
        self.subject = Subject(self.move_to.pop(0), self.subject.values)
        return True

    def listens_on(self) -> tuple[Address, ...]:
        return ()

    def tail(self, lines: int) -> tuple[str, ...]:
        return ("last words",)[:lines]


async def start(backend: FakeBackend, **health: Any) -> list[str]:
    """Wait until it is healthy; returns what was counted."""
    results: list[str] = []
    await prober.wait_healthy(backend, Health(**health), on_check=results.append, probe=backend.probe)
    return results


async def test_the_first_checks_come_fast_and_then_slow_down_to_the_interval(autojump_clock: MockClock) -> None:
    backend = FakeBackend(*[REFUSED] * 12, OK)
    assert await start(backend, interval=1) == ["failed"] * 12 + ["ok"]
    gaps = [round(b - a, 3) for a, b in zip(backend.checked, backend.checked[1:], strict=False)]
    assert gaps[:3] == [0.05, 0.075, 0.113]
    assert gaps[-3:] == [1.0, 1.0, 1.0]
    assert gaps == sorted(gaps)


async def test_one_lucky_answer_is_not_enough_when_rise_asks_for_more(autojump_clock: MockClock) -> None:
    backend = FakeBackend(OK, OK, REFUSED, OK, OK, OK)
    assert await start(backend, rise=3) == ["ok", "ok", "failed", "ok", "ok", "ok"]


async def test_a_backend_that_dies_ends_the_wait_at_once(autojump_clock: MockClock) -> None:
    backend = FakeBackend(REFUSED)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def die() -> None:
            await trio.sleep(0.5)
            backend.ended.set()

        with pytest.raises(StartError, match=r"^exited with status 3 before it was healthy$") as caught:
            await start(backend, start_timeout=30)
    assert trio.current_time() < 1
    assert caught.value.output == ("last words",)


async def test_at_the_timeout_it_is_told_what_failed_how_often_and_with_what(autojump_clock: MockClock) -> None:
    backend = FakeBackend(REFUSED, CheckResult(healthy=False, reason="HTTP 500 Internal Server Error"))
    with pytest.raises(StartError) as caught:
        await start(backend, type="http", path="/up", start_timeout=5)
    failed = len(backend.checked)
    answers = f'failed {failed} times, last with "HTTP 500 Internal Server Error"'
    assert caught.value.message == f"not healthy within 5s: GET /up at 127.0.0.1:1 {answers}"
    assert "start_timeout" in caught.value.hint
    assert caught.value.output == ("last words",)


async def test_a_check_that_hangs_does_not_outlast_the_start_timeout(autojump_clock: MockClock) -> None:
    backend = FakeBackend(OK)

    async def hang(*_: object) -> CheckResult:
        await trio.sleep_forever()

    with pytest.raises(StartError, match=r"tcp check at 127\.0\.0\.1:1 had no answer"):
        await prober.wait_healthy(backend, Health(start_timeout=3), probe=hang)
    assert trio.current_time() == pytest.approx(3)


async def test_a_stranger_on_the_port_fails_the_start_at_once(autojump_clock: MockClock) -> None:
    stranger = StartError("127.0.0.1:1 is answered by pid 999", hint="…")
    backend = FakeBackend(OK, owner=stranger)
    with pytest.raises(StartError) as caught:
        await start(backend, rise=3)
    assert caught.value is stranger
    assert caught.value.output == ("last words",)


async def test_any_owner_will_do_when_the_config_says_so(autojump_clock: MockClock) -> None:
    assert await start(FakeBackend(OK, owner=StartError("stranger")), owner="any") == ["ok"]


async def test_an_answer_that_nobody_here_gave_is_not_a_success(autojump_clock: MockClock) -> None:
    backend = FakeBackend(OK, owner="something answers, but nobody listens")
    with pytest.raises(StartError, match='last with "something answers, but nobody listens"') as caught:
        await start(backend, start_timeout=2)
    assert 'health.owner = "any"' in caught.value.hint


async def test_a_command_may_be_content_before_anything_listens(autojump_clock: MockClock) -> None:
    assert await start(FakeBackend(OK, owner="nobody listens"), type="command") == ["ok"]


async def test_a_name_that_fails_is_looked_up_again_and_tried_at_its_next_address(autojump_clock: MockClock) -> None:
    backend = FakeBackend(REFUSED, REFUSED, OK)
    await start(backend)
    assert backend.moves == [False, True, True]


async def watched(
    backend: FakeBackend, seconds: float, *, healthy: bool = True, **health: Any
) -> tuple[list[tuple[float, bool, str]], list[str]]:
    """What `watch` reports within some seconds: changes with their time, and results."""
    changes: list[tuple[float, bool, str]] = []
    results: list[str] = []
    with trio.move_on_after(seconds):
        await prober.watch(
            backend,
            Health(**health),
            healthy=healthy,
            on_change=lambda well, reason: changes.append((round(trio.current_time(), 3), well, reason)),
            on_check=results.append,
            probe=backend.probe,
        )
    return changes, results


async def test_a_sick_backend_that_is_watched_anew_returns_as_soon_as_it_is_well(autojump_clock: MockClock) -> None:
    """As after a reload that puts wrong health settings right."""
    changes, _ = await watched(FakeBackend(REFUSED, OK), 9.5, healthy=False, interval=1, rise=2)
    assert changes == [(3.0, True, "")]


async def test_not_being_able_to_see_who_listens_is_a_failed_check_and_nothing_worse(autojump_clock: MockClock) -> None:
    owner = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    changes, _ = await watched(FakeBackend(OK, owner=owner), 9.5, healthy=False, interval=1, rise=1)
    assert changes == []
    with pytest.raises(StartError, match="not healthy within"):
        await start(FakeBackend(OK, owner=owner), start_timeout=3)


async def test_a_backend_leaves_after_fall_failures_and_returns_after_rise_successes(autojump_clock: MockClock) -> None:
    backend = FakeBackend(OK, REFUSED, REFUSED, OK, REFUSED, REFUSED, REFUSED, OK, OK)
    changes, results = await watched(backend, 9.5, interval=1, fall=3, rise=2)
    assert changes == [(7.0, False, "connection refused"), (9.0, True, "")]
    assert results.count("failed") == 5
    assert backend.checked == [float(second) for second in range(1, 10)]


async def test_a_backend_that_comes_back_as_someone_else_stays_out(autojump_clock: MockClock) -> None:
    backend = FakeBackend(REFUSED, OK, owner=StartError("127.0.0.1:1 is answered by pid 999"))
    changes, results = await watched(backend, 5.5, interval=1, fall=1)
    assert changes == [(1.0, False, "connection refused")]
    assert results == ["failed"] * 5


async def test_a_name_that_means_another_address_is_reported_before_it_is_unhealthy(autojump_clock: MockClock) -> None:
    backend = FakeBackend(REFUSED, OK)
    backend.move_to = [Address(host="127.0.0.1", port=2)]
    changes, _ = await watched(backend, 3.5, interval=1, fall=3)
    assert changes == [(1.0, True, "moved to 127.0.0.1:2")]
    assert backend.subject.address.port == 2


async def test_a_backend_without_checks_is_never_checked(autojump_clock: MockClock) -> None:
    backend = FakeBackend(REFUSED)
    assert await watched(backend, 60, type="none") == ([], [])
    assert await prober.wait_healthy(backend, Health(type="none")) is None


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as created:
        yield created


async def wait(here: World, command: str | tuple[str, ...], **health: Any) -> None:
    service, _ = here.service(command, health=health)
    backend = await here.start(command, health=health)
    await prober.wait_healthy(backend, service.health)


async def test_a_real_server_becomes_healthy(here: World) -> None:
    await wait(here, SERVER, type="http")


async def test_a_server_that_closes_its_port_and_lives_on_is_noticed(here: World) -> None:
    code = "import socket,sys,signal; s=socket.create_server(('127.0.0.1',int(sys.argv[1])))\n"
    code += "signal.signal(signal.SIGUSR1, lambda *_: s.close())\nwhile True: signal.pause()"
    health = Health(interval=0.05, fall=2)
    backend = await here.start((sys.executable, "-c", code, "{port}"))
    await prober.wait_healthy(backend, health)
    changed = trio.Event()
    changes = []

    def change(healthy: bool, reason: str) -> None:
        changes.append((healthy, reason))
        changed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: prober.watch(backend, health, on_change=change))
        backend.signal(signal.SIGUSR1)
        with trio.fail_after(10):
            await changed.wait()
        nursery.cancel_scope.cancel()
    assert changes == [(False, "connection refused")]


async def test_of_a_backend_that_never_listens_it_is_said(here: World) -> None:
    """A slow start, or no server at all: the port it was given is not what is wrong."""
    with pytest.raises(StartError) as caught:
        await wait(here, ("sleep", "60"), start_timeout=1)
    address = here.started[0].address
    assert caught.value.message.endswith(f"nothing listens on {address}; the process listens on no address at all")
    assert "start_timeout" in caught.value.hint


async def test_a_backend_that_ignores_its_port_is_told_where_it_listens(here: World) -> None:
    code = "import socket,time; s=socket.create_server(('0.0.0.0',0)); print(s.getsockname()[1],flush=True); "
    code += "time.sleep(60)"
    with pytest.raises(StartError) as caught:
        await wait(here, (sys.executable, "-c", code), start_timeout=1)
    (port,) = caught.value.output
    address = here.started[0].address
    assert f"nothing listens on {address}; the process listens on 0.0.0.0:{port}" in caught.value.message
    assert "does it use {port}?" in caught.value.hint


async def test_a_backend_that_daemonizes_is_told_to_stay_in_the_foreground(here: World) -> None:
    with pytest.raises(StartError, match="exited with status 0 before it was healthy") as caught:
        await wait(here, ("sh", "-c", "setsid sleep 60 &"))
    assert "foreground" in caught.value.hint


async def test_the_last_words_of_a_backend_that_fails_come_with_the_error(here: World) -> None:
    with pytest.raises(StartError, match="exited with status 3 before it was healthy") as caught:
        await wait(here, ("sh", "-c", "echo reading config; echo 'no such key' >&2; exit 3"))
    assert caught.value.output == ("reading config", "no such key")


@contextmanager
def stranger_on(host: str, port: int) -> Iterator[int]:
    """A process of someone else that listens on the port, beside whoever else does (SO_REUSEPORT)."""
    code = "import socket,sys,time; s=socket.socket(); s.setsockopt(1,socket.SO_REUSEPORT,1); "
    code += "s.bind((sys.argv[1],int(sys.argv[2]))); s.listen(); print(flush=True); time.sleep(60)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROXY_")}
    with subprocess.Popen(
        [sys.executable, "-c", code, host, str(port)], stdout=subprocess.PIPE, env=environment, start_new_session=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


async def test_a_stale_process_that_answers_on_the_port_is_an_error_and_named(here: World) -> None:
    backend = await here.start("sleep 60")
    with stranger_on("127.0.0.1", backend.address.port) as pid:
        with pytest.raises(StartError) as caught:
            await prober.wait_healthy(backend, Health())
        await prober.wait_healthy(backend, Health(owner="any"))
    assert caught.value.message.startswith(f"{backend.address} is answered by pid {pid} ({sys.executable} -c")
    assert caught.value.message.endswith("which is not part of the process tree that was started")
    assert 'health.owner = "any"' in caught.value.hint
    assert "docker run -p" in caught.value.hint


async def test_a_stranger_that_shares_the_port_with_our_backend_is_an_error(here: World) -> None:
    code = "import socket,sys,time; s=socket.socket(); s.setsockopt(1,socket.SO_REUSEPORT,1); "
    code += "s.bind(('127.0.0.1',int(sys.argv[1]))); s.listen(); print('on',flush=True); time.sleep(60)"
    backend = await here.start((sys.executable, "-c", code, "{port}"))
    await prober.wait_healthy(backend, Health())
    with stranger_on("127.0.0.1", backend.address.port) as pid, pytest.raises(StartError, match=f"pid {pid}"):
        await prober.wait_healthy(backend, Health())


async def test_a_server_that_a_forked_child_runs_is_our_own(here: World) -> None:
    await wait(here, ("sh", "-c", f"setsid {' '.join(SERVER)} & wait"), type="http")


# With the public listener (datapath "inherit").

ACTIVATED = (sys.executable, str(Path(__file__).with_name("activated.py")))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as created:
        created.setblocking(False)
        yield created


@pytest.mark.parametrize("kind", ["tcp", "http"])
async def test_with_the_public_listener_it_is_ready_when_it_says_so_and_not_when_another_answers_there(
    here: World, listener: socket.socket, kind: Literal["tcp", "http"]
) -> None:
    other = await here.start((*ACTIVATED, "v1"), listeners=[listener])
    await prober.wait_healthy(other, Health(type=kind))
    silent = await here.start((*ACTIVATED, "v2", "silent"), replica=1, listeners=[listener])
    results: list[str] = []
    with pytest.raises(StartError) as caught:
        await prober.wait_healthy(silent, Health(type=kind, start_timeout=0.5), on_check=results.append)
    assert caught.value.message == "not ready within 500ms: it has not said READY=1 on $NOTIFY_SOCKET"
    assert caught.value.hint.startswith(
        'one that does not speak sd_notify(3) needs `health.type = "command"`, or "none"'
    )
    assert caught.value.output == ("web",)
    assert results == []


async def test_what_it_said_and_who_else_spoke_comes_with_the_error(here: World, listener: socket.socket) -> None:
    script = "import os,socket as s,time; to=os.environ['NOTIFY_SOCKET']; u=s.socket(s.AF_UNIX,s.SOCK_DGRAM); "
    script += "u.sendto(b'STATUS=loading the index',to); time.sleep(60)"
    started = await here.start((sys.executable, "-c", script), listeners=[listener])
    (path,) = (here.state_dir / "sockets").iterdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"READY=1", str(path))
    with pytest.raises(StartError) as caught:
        await prober.wait_healthy(started, Health(start_timeout=1))
    assert '; the last it said is STATUS "loading the index"; pid' in caught.value.message
    assert f"pid {os.getpid()} has, which is not" in caught.value.message


async def test_with_the_public_listener_one_that_dies_ends_the_wait_at_once(
    here: World, listener: socket.socket
) -> None:
    started = await here.start(("sh", "-c", "echo no such key; exit 3"), listeners=[listener])
    with trio.fail_after(10), pytest.raises(StartError, match="exited with status 3 before it was healthy") as caught:
        await prober.wait_healthy(started, Health())
    assert caught.value.output == ("no such key",)


@pytest.mark.parametrize("health", [Health(type="none"), Health(type="command", command="test -e said")])
async def test_a_command_or_nobody_decides_for_one_that_does_not_say_it_is_ready(
    here: World, listener: socket.socket, health: Health
) -> None:
    """And it goes on reporting: where nobody reads that, it must not have to wait."""
    started = await here.start((*ACTIVATED, "v1", "silent", "busy"), listeners=[listener])
    with trio.fail_after(20):
        await prober.wait_healthy(started, health)
        assert started.is_ready()
        await here.text_of("said")


async def test_one_with_a_port_of_its_own_is_checked_there(here: World, listener: socket.socket) -> None:
    command = shlex.join((*ACTIVATED, "v1", "busy")) + " & exec " + shlex.join(SERVER)
    started = await here.start(("sh", "-c", command.replace(" v1", " v1 wrong-pid")), listeners=[listener])
    results: list[str] = []
    with trio.fail_after(20):
        await prober.wait_healthy(started, Health(type="http"), on_check=results.append)
        await here.text_of("said")
    assert results[-1] == "ok"


async def test_with_the_public_listener_only_its_life_is_watched(here: World, listener: socket.socket) -> None:
    started = await here.start((*ACTIVATED, "v1"), listeners=[listener])
    await prober.wait_healthy(started, Health())
    changes: list[bool] = []
    with trio.move_on_after(0.5):
        await prober.watch(
            started,
            Health(interval=0.01, fall=1),
            on_change=lambda healthy, _: changes.append(healthy),
            on_check=lambda _: changes.append(True),
        )
    assert changes == []


async def test_a_command_watches_one_with_the_public_listener_and_asks_not_whose_it_is(
    here: World, listener: socket.socket
) -> None:
    started = await here.start((*ACTIVATED, "v1"), listeners=[listener])
    health = Health(type="command", command="test ! -e sick", interval=0.05, fall=1)
    await prober.wait_healthy(started, health)
    (here.folder / "sick").touch()
    changes = []
    with trio.move_on_after(10) as scope:

        def change(healthy: bool, _: str) -> None:
            changes.append(healthy)
            (here.folder / "sick").unlink(missing_ok=True)
            if healthy:
                scope.cancel()

        await prober.watch(started, health, on_change=change)
    assert changes == [False, True]
