"""Real backends with the public listener, and how one gives way to the next."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import trio

from proxy.control import inheriting
from proxy.core.address import Address
from tests.control.world import World, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from proxy.control.backend import Backend

ACTIVATED = (sys.executable, str(Path(__file__).with_name("activated.py")))
PATIENCE = 10.0


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as created:
        yield created


async def hand_on(old: Generation, limit: float) -> bool:
    """Tell it to stop; whether it accepts no more within `limit` seconds."""
    with trio.move_on_after(limit):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inheriting.ended, old, lambda _: None, nursery.cancel_scope.cancel)
        return True
    return False


@pytest.fixture
def public() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener


class Replica:
    def __init__(self, backend: Backend | None) -> None:
        self.backend = backend


class Generation:
    """One that runs, as far as a handover needs it."""

    id = 1

    def __init__(self, public: socket.socket, *backends: Backend) -> None:
        self.replicas = [*map(Replica, backends), Replica(None)]
        self.was_signalled = self.remembered = False
        self._public = public

    def changed(self) -> None:
        self.remembered = self.was_signalled

    def say_goodbye(self) -> None:
        self.was_signalled = True
        for replica in self.replicas:
            if replica.backend:
                replica.backend.signal(signal.SIGTERM)

    def public_inodes(self) -> frozenset[int]:
        return inheriting.inodes([self._public.fileno()])

    def public_addresses(self) -> list[Address]:
        host, port = self._public.getsockname()
        return [Address(host=host, port=port)]

    async def died_out(self) -> None:
        for replica in self.replicas:
            if replica.backend:
                await replica.backend.exited()


async def start(here: World, public: socket.socket, word: str, *, replica: int = 0) -> Backend:
    """Of generation N, for the word "vN"."""
    started = await here.start((*ACTIVATED, word), generation=int(word[1:]), replica=replica, listeners=[public])
    with trio.fail_after(PATIENCE):
        await started.ready()
    return started


async def visit(public: socket.socket) -> tuple[trio.SocketStream, bytes]:
    stream = await trio.open_tcp_stream(*public.getsockname())
    with trio.fail_after(PATIENCE):
        return stream, await stream.receive_some(100)


async def words(public: socket.socket, times: int) -> set[bytes]:
    found = set()
    for _ in range(times):
        stream, word = await visit(public)
        found.add(word)
        await stream.aclose()
    return found


async def test_after_the_handover_nobody_new_comes_to_the_old_one_and_nobody_leaves_it(here, public) -> None:
    old: Any = Generation(public, await start(here, public, "v1"), await start(here, public, "v1", replica=1))
    before, _ = await visit(public)
    await start(here, public, "v2")
    with trio.fail_after(PATIENCE):
        assert await hand_on(old, PATIENCE)
    assert old.remembered, "another control process does not tell it once more: many servers take that for `now`"
    assert await words(public, 30) == {b"v2"}
    assert await inheriting.count(old) == 1
    await before.send_all(b"still there?")
    heard: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inheriting.ended, old, heard.append, lambda: None)
        with trio.fail_after(PATIENCE):
            while not heard:
                await trio.sleep(0.01)
            await before.aclose()
    assert heard[0] == 1
    assert await inheriting.count(old) == 0


async def test_who_comes_while_no_generation_accepts_waits_and_is_served(here, public) -> None:
    """The proxy's own copy of the listener stays open, so that the queue is never lost."""
    old: Any = Generation(public, await start(here, public, "v1"))
    with trio.fail_after(PATIENCE):
        assert await hand_on(old, PATIENCE)
        await inheriting.ended(old, lambda _: None, lambda: None)
    waiting = [await trio.open_tcp_stream(*public.getsockname()) for _ in range(5)]
    await start(here, public, "v2")
    with trio.fail_after(PATIENCE):
        assert {await each.receive_some(100) for each in waiting} == {b"v2"}
    for each in waiting:
        await each.aclose()


async def test_one_that_does_not_stop_accepting_is_told_of_in_time(here, public) -> None:
    stubborn = await here.start(("sh", "-c", "trap '' TERM; echo up > up; sleep 60"), listeners=[public])
    await here.text_of("up")
    with trio.fail_after(PATIENCE):
        assert not await hand_on(Generation(public, stubborn), 0.2)  # type: ignore[arg-type]


async def test_one_that_was_told_under_another_control_process_is_not_told_twice(here, public) -> None:
    """Many servers take a second signal for "now"."""
    told: list[int] = []
    for was_told in (True, False):
        backend = await start(here, public, "v1")
        generation: Any = Generation(public, backend)
        generation.was_signalled = was_told
        generation.say_goodbye = lambda: told.append(1)
        with trio.move_on_after(0.3):
            await inheriting.ended(generation, lambda _: None, lambda: None)
        await backend.stop(signal.SIGKILL, 0)
    assert told == [1]


async def test_one_that_cannot_be_looked_into_has_let_go_when_it_ended(here, public, monkeypatch, caplog) -> None:
    backend = await start(here, public, "v1")

    async def fail(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(backend, "lets_go", fail)
    with trio.fail_after(PATIENCE):
        assert await hand_on(Generation(public, backend), PATIENCE)  # type: ignore[arg-type]
    assert "cannot see whether the listener is held" in caplog.text


async def test_connections_that_cannot_be_counted_do_not_end_control(here, public, monkeypatch, caplog) -> None:
    backend = await start(here, public, "v1")

    def fail(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(backend, "connections", fail)
    assert await inheriting.count(Generation(public, backend)) == 0  # type: ignore[arg-type]
    assert "connections cannot be counted" in caplog.text


def test_a_listener_is_known_by_its_socket_and_not_by_a_number_of_a_descriptor(public) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, public.dup() as copy:
        assert inheriting.inodes([public.fileno()]) == inheriting.inodes([copy.fileno(), public.fileno()])
        assert inheriting.inodes([public.fileno()]).isdisjoint(inheriting.inodes([other.fileno()]))
