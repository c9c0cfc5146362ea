"""The loop under load: nobody starves, nobody gets another one's events, and an idle worker costs nothing."""

from __future__ import annotations

import _socket
import contextlib
import select
import socket
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio

from proxy.relay.connection import Connection
from proxy.relay.engine import BUFFER, READS, Engine
from proxy.relay.generation import Endpoint, Generation
from tests.relay.harness import eventually, read, reset

if TYPE_CHECKING:
    from tests.relay.harness import Service, WorkerProcess


def ping(client: socket.socket, server: socket.socket) -> float:
    """Send a byte there and back; return the seconds that took."""
    start = time.monotonic()
    client.sendall(b"?")
    assert read(server, 1) == b"?"
    server.sendall(b"!")
    assert read(client, 1) == b"!"
    return time.monotonic() - start


def test_bulk_streams_leave_small_ones_their_turn(service: Service) -> None:
    service.route()
    stop = threading.Event()
    moved = [0, 0, 0]

    def send(server: socket.socket) -> None:
        chunk = bytes(1 << 18)
        while not stop.is_set():
            server.sendall(chunk)
        server.close()

    def receive(client: socket.socket, number: int) -> None:
        while size := len(client.recv(1 << 18)):
            moved[number] += size

    threads = []
    for number in range(len(moved)):
        client, server = service.pair()
        threads.append(threading.Thread(target=send, args=(server,)))
        threads.append(threading.Thread(target=receive, args=(client, number)))
    small = service.pair()
    for thread in threads:
        thread.start()
    try:
        times = sorted(ping(*small) for _ in range(200))
        assert all(moved)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert times[100] < 0.05
    assert min(moved) > max(moved) / 20, "one bulk stream starved another"


def test_one_event_moves_one_buffer_and_a_turn_moves_a_few() -> None:
    """Else a sender that is faster than the proxy would keep it to itself."""
    engine = Engine()
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(end) for _ in range(2) for end in socket.socketpair()]
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * BUFFER)
            end.setblocking(False)
        sender, client, backend, receiver = ends
        owner: Any = SimpleNamespace(engine=engine, idle_timeout=0.0)
        socks = [_socket.socket(fileno=end.detach()) for end in (client, backend)]
        connection = Connection(owner, Generation(1), Endpoint("unix:/x"), *socks, accepted=0.0)
        connection.start()
        sender.sendall(bytes(12 * BUFFER))
        connection.client.on_event(select.EPOLLIN)
        assert arrived(receiver) == BUFFER
        connection.client.on_event(select.EPOLLIN)
        assert arrived(receiver) == 0, "it is in the ready list: its turn comes after the others'"
        assert engine.ready.popleft() is connection.client
        connection.client.on_ready(READS)
        assert arrived(receiver) == READS * BUFFER
        assert list(engine.ready) == [connection.client]
        for sock in socks:
            sock.close()


def arrived(sock: socket.socket) -> int:
    """Read what is there; return how much that was."""
    total = 0
    with contextlib.suppress(BlockingIOError):
        while size := len(sock.recv(1 << 20)):
            total += size
    return total


def test_a_reused_descriptor_gets_no_event_of_the_one_before(service: Service, worker: WorkerProcess) -> None:
    """In one batch: connections end, new ones take over the numbers of their descriptors, and then the events come
    that were meant for the old ones. A client that waits would be dropped by such an event.
    """
    for generation in range(1, 6):
        service.route(generation)
        old = [service.pair() for _ in range(8)]
        for pair in old:
            ping(*pair)
        service.hold()
        worker.freeze()
        for client, _ in old:
            reset(client)
        new = [service.client() for _ in old]
        for _, server in old:
            reset(server)
        worker.thaw()
        service.control.counts_when("web", lambda counts: counts.waiting == 8)
        service.route(generation)
        servers = [service.keep(service.backend.accept()) for _ in new]
        for client in new:
            client.sendall(b"?")
        for server in servers:
            assert read(server, 1) == b"?"
            server.sendall(b"!")
        for client in new:
            assert read(client, 1) == b"!"


def test_an_idle_worker_sleeps(service: Service, worker: WorkerProcess) -> None:
    service.route(idle_timeout=60.0)
    pairs = [service.pair() for _ in range(20)]
    for client, server in pairs:
        ping(client, server)
    assert worker.cpu_share(1.0) < 0.03


def test_connections_that_open_and_close_leave_nothing_behind(service: Service, worker: WorkerProcess) -> None:
    service.route(idle_timeout=3600.0)

    def churn(count: int) -> None:
        before = worker.descriptors()
        for _ in range(count):
            client, server = service.pair()
            ping(client, server)
            client.close()
            server.close()
        eventually(lambda: worker.descriptors() == before or None)

    churn(50)
    rss = worker.rss()
    churn(500)
    assert worker.rss() - rss < 2 << 20


class Faulty:
    """A handler with a bug."""

    def __init__(self) -> None:
        self.failed: list[Exception] = []

    def on_event(self, _mask: int) -> None:
        raise RuntimeError("a bug")

    def fail(self, error: Exception) -> None:
        self.failed.append(error)


class Ender:
    """A handler that ends the loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def on_event(self, _mask: int) -> None:
        self._engine.stop()

    def fail(self, error: Exception) -> None:
        raise error


async def test_an_error_in_one_connections_handling_stays_its_own() -> None:
    engine, faulty = Engine(), Faulty()
    one, other = socket.socketpair()
    with one, other:
        engine.watch(one.fileno(), faulty, select.EPOLLOUT | select.EPOLLET)
        engine.watch(other.fileno(), Ender(engine), select.EPOLLIN)
        one.send(b"x")
        with trio.fail_after(5):
            await engine.run()
    assert [str(error) for error in faulty.failed] == ["a bug"]


class Hungry(Faulty):
    """A side that always has more."""

    def __init__(self, engine: Engine, served: list[Hungry]) -> None:
        super().__init__()
        self._engine: Any = engine
        self._served = served

    def on_ready(self, _reads: int) -> None:
        self._served.append(self)
        if len(self._served) == 100:
            self._engine.stop()
        self._engine.ready.append(self)


async def test_all_bulk_streams_have_their_turn() -> None:
    engine: Any = Engine()
    served: list[Hungry] = []
    streams = [Hungry(engine, served) for _ in range(20)]
    engine.ready.extend(streams)
    engine.at(0, lambda: None)  # wakes the loop, as an event would
    with trio.fail_after(5):
        await engine.run()
    assert served[:100] == streams * 5


async def test_an_error_in_a_timer_does_not_end_the_loop() -> None:
    engine = Engine()

    def fail() -> None:
        raise RuntimeError("a bug")

    engine.at(engine.now, fail)
    engine.at(engine.now, engine.stop)
    with trio.fail_after(5):
        await engine.run()


async def test_a_timer_is_due_although_no_event_comes() -> None:
    engine = Engine()
    engine.at(engine.now + 0.05, engine.stop)
    with trio.fail_after(5):
        await engine.run()


async def test_the_loop_gives_other_tasks_their_turn_under_load() -> None:
    """Else a signal would not be seen while there is always something to do."""
    engine, ran = Engine(), trio.Event()
    one, other = socket.socketpair()

    async def task() -> None:
        await trio.lowlevel.checkpoint()
        ran.set()
        engine.stop()

    class Busy(Faulty):
        def on_event(self, _mask: int) -> None:
            assert engine.now < start + 5

    start = engine.now
    with one, other:
        engine.watch(one.fileno(), Busy(), select.EPOLLOUT)  # level-triggered: always ready
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            await trio.sleep(0.02)
            nursery.start_soon(task)
    assert ran.is_set()
