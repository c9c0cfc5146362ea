"""The loop under load: nobody starves, nobody gets another one's events, and an idle worker costs nothing."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tests.relay.harness import is_quiet, read, reset, was_reset

if TYPE_CHECKING:
    import socket

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


def test_a_reused_descriptor_gets_no_event_of_the_one_before(service: Service, worker: WorkerProcess) -> None:
    """In one batch: connections end on both sides, and new ones take over the numbers of their descriptors."""
    service.route()
    for _ in range(5):
        old = [service.pair() for _ in range(20)]
        for client, server in old:
            ping(client, server)
        worker.freeze()
        new = [service.client() for _ in range(20)]
        for client in new:
            client.sendall(b"?")
        for client, server in old:
            server.sendall(b"stray")
            reset(client)
            reset(server)
        worker.thaw()
        for client in new:
            server = service.keep(service.backend.accept())
            assert read(server, 1) == b"?"
            server.sendall(b"!")
        for client in new:
            assert read(client, 1) == b"!"
            assert is_open(client)
        assert service.control.counts_when("web", lambda counts: counts.generations[1].active == len(new))
        for client in new:
            reset(client)
        service.control.counts_when("web", lambda counts: counts.generations[1].active == 0)


def is_open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) != b""
    except BlockingIOError:
        return True


def test_an_idle_worker_sleeps(service: Service, worker: WorkerProcess) -> None:
    service.route(idle_timeout=60.0)
    pairs = [service.pair() for _ in range(20)]
    for client, server in pairs:
        ping(client, server)
    assert worker.cpu_share(1.0) < 0.03


def test_connections_that_open_and_close_leave_nothing_behind(service: Service, worker: WorkerProcess) -> None:
    service.route(idle_timeout=3600.0)
    ping(*service.pair())
    for round_ in range(2):
        before = worker.descriptors(), worker.rss()
        for _ in range(500 if round_ else 50):
            client, server = service.pair()
            ping(client, server)
            client.close()
            server.close()
        service.control.counts_when("web", lambda counts: counts.generations[1].active <= 1)
    assert worker.descriptors() == before[0]
    assert worker.rss() - before[1] < 2 << 20


def test_a_connection_that_fails_by_a_bug_takes_nobody_along(service: Service) -> None:
    """Nothing like that is known; an error in one connection's handling must stay its own (see test_relay_faults)."""
    service.route()
    one, other = service.pair(), service.pair()
    reset(one[0])
    assert was_reset(one[1])
    ping(*other)
    assert is_quiet(other[0])
