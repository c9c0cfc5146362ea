"""What a client and its backend see of each other through a worker: every byte, FIN as FIN, RST as RST."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from proxy.relay.engine import BUFFER
from tests.relay.harness import fill, is_quiet, read, read_to_end, reset, was_reset

if TYPE_CHECKING:
    from tests.relay.harness import Service, WorkerProcess

MIB = 1 << 20
KINDS = ("ipv4", "ipv6", "unix")


@pytest.fixture
def pair(service: Service) -> tuple[socket.socket, socket.socket]:
    """A client, and the backend's end of its connection."""
    service.route()
    return service.pair()


def sent_in_background(sock: socket.socket, data: bytes, *, end: bool = False) -> threading.Thread:
    def send() -> None:
        sock.sendall(data)
        if end:
            sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("backend", KINDS)
@pytest.mark.parametrize("public", KINDS)
def test_every_kind_of_client_reaches_every_kind_of_backend(service: Service, public: str, backend: str) -> None:
    service.public = service.listener(public)
    service.backend = service.listener(backend)
    service.control.listen("web", service.public)
    service.route()
    client, server = service.pair()
    client.sendall(b"question")
    assert read(server, 8) == b"question"
    server.sendall(b"answer")
    assert read(client, 6) == b"answer"
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(server) == b""
    server.sendall(b"!")
    server.close()
    assert read_to_end(client) == b"!"


def test_every_byte_arrives_in_order_both_ways_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    up, down = os.urandom(8 * MIB), os.urandom(8 * MIB)
    threads = [sent_in_background(client, up, end=True), sent_in_background(server, down, end=True)]
    got: list[bytes] = []
    threads.append(threading.Thread(target=lambda: got.append(read_to_end(server))))
    threads[-1].start()
    assert read_to_end(client) == down
    for thread in threads:
        thread.join()
    assert got == [up]


def test_a_client_that_has_said_all_still_gets_its_answer(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    client.sendall(b"request")
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(server) == b"request"
    server.sendall(b"answer")
    assert read(client, 6) == b"answer"
    server.close()
    assert read_to_end(client) == b""


def test_a_backend_that_has_said_all_still_gets_the_rest(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    server.sendall(b"hello")
    server.shutdown(socket.SHUT_WR)
    assert read_to_end(client) == b"hello"
    client.sendall(b"and")
    assert read(server, 3) == b"and"
    client.sendall(b"more")
    client.close()
    assert read_to_end(server) == b"more"


def test_the_end_is_seen_when_it_comes_with_the_last_bytes(service: Service, worker: WorkerProcess) -> None:
    """A short read is not the end of what there is to read when FIN came in the same event."""
    service.route()
    client, server = service.pair()
    worker.freeze()
    server.sendall(b"all of it")
    server.close()
    worker.thaw()
    assert read_to_end(client) == b"all of it"


def test_the_end_is_seen_when_it_comes_before_the_first_byte_is_relayed(service: Service) -> None:
    """Everything a client has to say came while it was held: none of its edges will come again."""
    service.hold()
    client = service.client()
    client.sendall(b"request")
    client.shutdown(socket.SHUT_WR)
    service.control.counts_when("web", lambda counts: counts.waiting == 1)
    service.route()
    server = service.keep(service.backend.accept())
    assert read_to_end(server) == b"request"
    server.sendall(b"answer")
    server.close()
    assert read_to_end(client) == b"answer"


def test_the_end_comes_after_what_a_slow_reader_has_not_read_yet(service: Service) -> None:
    service.route()
    client, server = service.pair(receive_buffer=4096)
    data = os.urandom(16 * MIB)
    thread = sent_in_background(server, data, end=True)
    assert is_quiet(server, events=select.POLLIN)
    assert read_to_end(client) == data
    thread.join()


def test_a_server_that_greets_first_is_heard(service: Service) -> None:
    service.route()
    client, server = service.pair()
    server.sendall(b"220 ready\r\n")
    assert read(client, 11) == b"220 ready\r\n"


def test_an_urgent_byte_stays_in_the_stream(pair: tuple[socket.socket, socket.socket]) -> None:
    for sender, receiver in (pair, pair[::-1]):
        sender.sendall(b"ab")
        sender.send(b"!", socket.MSG_OOB)
        sender.sendall(b"cd")
        assert read(receiver, 5) == b"ab!cd"


def test_small_messages_are_not_held_back(pair: tuple[socket.socket, socket.socket]) -> None:
    """Without TCP_NODELAY the second of two small writes waits for the receiver's delayed acknowledgement."""
    for end in pair:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    start = time.monotonic()
    for sender, receiver in (pair, pair[::-1]):
        for _ in range(20):
            sender.sendall(b"a")
            assert not is_quiet(receiver)
            sender.sendall(b"b")
            assert read(receiver, 2) == b"ab"
            receiver.sendall(b"c")
            assert read(sender, 1) == b"c"
    assert time.monotonic() - start < 0.5


def test_the_last_bytes_are_not_held_back_by_a_side_that_stays_open(pair: tuple[socket.socket, socket.socket]) -> None:
    """They may wait for the FIN that is behind them, but for nothing else."""
    client, server = pair
    client.sendall(b"x")
    client.send(b"!", socket.MSG_OOB)
    assert read(server, 2) == b"x!"
    start = time.monotonic()
    for _ in range(10):
        client.sendall(b"ping")
        assert read(server, 4) == b"ping"
    assert time.monotonic() - start < 0.5


# Resets


def test_a_backend_learns_that_its_client_reset(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    client.sendall(b"half a requ")
    assert read(server, 11) == b"half a requ"
    reset(client)
    assert was_reset(server)


def test_a_client_learns_that_its_backend_reset(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    server.sendall(b"half an ans")
    assert read(client, 11) == b"half an ans"
    reset(server)
    assert was_reset(client)


def test_an_answer_that_is_cut_short_is_not_taken_for_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    """The bytes and the reset come together; the bytes arrive, and so does the reset."""
    client, server = pair
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial")
    reset(server)
    with pytest.raises(ConnectionResetError):
        read_to_end(client)


def test_a_reset_after_the_end_of_a_stream_is_carried_over(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(server) == b""
    reset(client)
    server.settimeout(10)
    assert is_reset_by_now(server)


def is_reset_by_now(sock: socket.socket) -> bool:
    """Wait for an error on a socket whose stream has ended already."""
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(10_000)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def test_an_early_answer_arrives_although_the_request_was_not_read(
    service: Service, pair: tuple[socket.socket, socket.socket]
) -> None:
    """A server that answers 413 and closes resets the connection, because it has not read everything."""
    client, server = pair
    sent = fill(client, limit=64 * MIB)
    assert sent < 64 * MIB
    server.sendall(b"HTTP/1.1 413 Too Large\r\n\r\n")
    server.close()
    assert read(client, 26) == b"HTTP/1.1 413 Too Large\r\n\r\n"
    assert was_reset(client)
    service.control.counts_when("web", lambda counts: counts.generations[1].active == 0)


def test_a_reset_is_seen_by_a_client_that_was_sending(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    fill(client, limit=64 * MIB)
    reset(server)
    assert is_reset_by_now(client)


def test_what_a_client_sent_before_it_reset_is_not_kept_for_ever(
    service: Service, pair: tuple[socket.socket, socket.socket]
) -> None:
    """The backend does not read, and the client is gone: the connection must not outlive that for long."""
    client, _server = pair
    fill(client, limit=64 * MIB)
    reset(client)
    start = time.monotonic()
    service.control.counts_when("web", lambda counts: counts.generations[1].active == 0)
    assert time.monotonic() - start < 10


# Slow readers


def test_a_slow_reader_slows_its_sender_and_memory_stays_bounded(service: Service, worker: WorkerProcess) -> None:
    service.route()
    pairs = [service.pair(receive_buffer=4096) for _ in range(4)]
    before = worker.rss()
    for client, server in pairs:
        assert fill(server) < 64 * MIB  # of 256: the sender was stopped
        assert fill(client) < 64 * MIB
    assert worker.rss() - before < len(pairs) * 2 * BUFFER + 4 * MIB
    assert worker.cpu_share(0.5) < 0.1


def test_a_slow_reader_gets_every_byte_in_the_end(service: Service) -> None:
    service.route()
    client, server = service.pair(receive_buffer=4096)
    sent = fill(server)
    assert len(read(client, sent)) == sent
    assert is_quiet(client)
    server.sendall(b"go on")
    assert read(client, 5) == b"go on"


def test_one_way_is_not_stopped_by_the_other(service: Service) -> None:
    service.route()
    client, server = service.pair(receive_buffer=4096)
    fill(server)
    client.sendall(b"still here")
    assert read(server, 10) == b"still here"
