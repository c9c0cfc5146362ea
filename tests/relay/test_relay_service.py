"""What control relies on: the switch is one step, drains are told, counters are exact."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from proxy import wire
from proxy.relay.engine import BUFFER
from tests.relay.harness import fill, is_quiet, read, read_to_end, reset, was_reset

if TYPE_CHECKING:
    import socket

    from tests.relay.harness import Service, WorkerProcess


def exchange(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    client.sendall(b"?")
    assert read(server, 1) == b"?"
    server.sendall(b"!")
    assert read(client, 1) == b"!"


# The switch


def test_after_a_route_is_acknowledged_nothing_new_reaches_the_old_generation(service: Service) -> None:
    service.route(1)
    old = service.pair()
    new_backend = service.listener()
    assert service.route(2, new_backend) == {1: 1, 2: 0}
    for _ in range(10):
        client = service.client()
        server = service.keep(new_backend.accept())
        exchange((client, server))
    assert is_quiet(service.backend.sock)
    exchange(old)


def test_a_held_client_goes_to_the_new_generation(service: Service) -> None:
    service.route(1)
    exchange(service.pair())
    service.hold()
    client = service.client()
    client.sendall(b"?")
    assert is_quiet(service.backend.sock)
    assert service.control.counts("web").waiting == 1
    new_backend = service.listener()
    service.route(2, new_backend)
    assert read(service.keep(new_backend.accept()), 1) == b"?"
    assert is_quiet(service.backend.sock)


def test_the_connect_timeout_does_not_run_while_held_or_paused(service: Service) -> None:
    for policy in ({"held": True}, {"paused": True}):
        service.route(1, connect_timeout=0.1, **policy)
        client = service.client()
        client.sendall(b"?")
        service.control.counts_when("web", lambda counts: counts.waiting == 1)
        assert is_quiet(client)
        service.route(1, connect_timeout=5.0)
        assert read(service.keep(service.backend.accept()), 1) == b"?"
    assert service.control.counts("web").refused == {}


def test_pausing_stops_the_clock_of_clients_that_wait_for_a_backend(service: Service, worker: WorkerProcess) -> None:
    service.control.route("web", 1, connect_timeout=0.4)
    client = service.client()
    client.sendall(b"?")
    service.control.counts_when("web", lambda counts: counts.waiting == 1)
    service.control.route("web", 1, connect_timeout=0.4, paused=True)
    assert worker.cpu_share(0.8) < 0.1, "and they do not look at it again and again"
    service.route(1, connect_timeout=0.4)
    assert read(service.keep(service.backend.accept()), 1) == b"?"


def test_a_paused_service_keeps_its_open_connections(service: Service) -> None:
    service.route(1)
    pair = service.pair()
    service.route(1, paused=True)
    exchange(pair)


def test_many_held_clients_are_all_let_go_and_in_order(service: Service) -> None:
    service.hold()
    clients = [service.client() for _ in range(300)]
    for number, client in enumerate(clients):
        client.sendall(b"%03d" % number)
    service.control.counts_when("web", lambda counts: counts.waiting == 300)
    service.route()
    got = [int(read(service.keep(service.backend.accept()), 3)) for _ in clients]
    assert got == list(range(300))


def test_clients_wait_before_the_first_route(service: Service) -> None:
    client = service.client()
    client.sendall(b"?")
    service.control.counts_when("web", lambda counts: counts.waiting == 1)
    service.route()
    assert read(service.keep(service.backend.accept()), 1) == b"?"


def test_a_route_that_makes_no_sense_changes_nothing(service: Service) -> None:
    service.route(1)
    assert "host:port" in service.control.refused(wire.Route, "web", 2, (wire.Endpoint(0, "nonsense"),))
    assert "balance" in service.control.refused(wire.Route, "web", 2, (), balance="fastest")
    exchange(service.pair())
    assert list(service.control.counts("web").generations) == [1]


# Drains


def test_the_last_connection_of_a_drain_is_told_at_once(service: Service) -> None:
    service.route(1)
    pairs = [service.pair() for _ in range(3)]
    assert service.route(2) == {1: 3, 2: 0}
    for client, server in pairs:
        client.close()
        server.close()
    told = []
    start = time.monotonic()
    while not told or told[-1]:
        remaining = service.control.remaining()
        assert (remaining.service, remaining.generation) == ("web", 1)
        told.append(remaining.connections)
    assert told == sorted(told, reverse=True)
    assert time.monotonic() - start < 1


def test_the_progress_of_a_drain_is_told_at_most_ten_times_a_second(service: Service) -> None:
    service.route(1)
    pairs = [service.pair() for _ in range(50)]
    service.route(2)
    start = time.monotonic()
    for client, server in pairs[:-1]:
        client.close()
        server.close()
    assert service.control.remaining().connections < 50
    service.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    took = time.monotonic() - start
    assert len(service.control.unasked) <= took / 0.1 + 1


def test_the_active_generation_is_not_a_drain(service: Service) -> None:
    service.route(1)
    client, server = service.pair()
    client.close()
    server.close()
    service.control.counts_when("web", lambda counts: counts.generations[1].active == 0)
    assert service.control.unasked == []


def test_at_the_deadline_idle_connections_end_and_busy_ones_are_reset(service: Service) -> None:
    service.route(1)
    idle = service.pair()
    exchange(idle)
    time.sleep(1.1)
    busy = service.pair()
    exchange(busy)
    stuck = service.pair(receive_buffer=4096)
    fill(stuck[1])
    service.route(2)
    other = service.pair()
    assert service.control.ask(wire.Close, "web", 1).forced == 3
    for sock in idle:
        assert read_to_end(sock) == b""
    for sock in busy:
        assert was_reset(sock)
    assert was_reset(stuck[0])
    exchange(other)
    assert service.control.remaining() == wire.Remaining("web", 1, 0)
    assert service.control.ask(wire.Close, "web", 1).forced == 0


def test_a_generation_is_forgotten_when_it_is_gone_and_not_before(service: Service) -> None:
    service.route(1)
    client, server = service.pair()
    assert "takes new connections" in service.control.refused(wire.Forget, "web", 1)
    service.route(2)
    assert "1 connections" in service.control.refused(wire.Forget, "web", 1)
    client.close()
    server.close()
    assert service.control.remaining().connections == 0
    service.control.ask(wire.Forget, "web", 1)
    assert list(service.control.counts("web").generations) == [2]


def test_a_forgotten_service_leaves_nothing_behind(service: Service, worker: WorkerProcess) -> None:
    service.control.ask(wire.Forget, "web")
    before = worker.descriptors()
    service.control.listen("web", service.public)
    service.route()
    pair = service.pair()
    exchange(pair)
    service.hold()
    waiting = service.client()
    service.control.counts_when("web", lambda counts: counts.waiting == 1)
    service.control.ask(wire.Forget, "web")
    for sock in (*pair, waiting):
        assert was_reset(sock)
    assert worker.descriptors() == before
    assert service.control.answers(service.control.send(wire.Snapshot))[:-1] == []


# Timeouts


def test_a_connection_on_which_nothing_moves_is_closed(service: Service) -> None:
    service.route(idle_timeout=0.5)
    pair, active = service.pair(), service.pair()
    start = time.monotonic()
    while time.monotonic() - start < 0.8:
        exchange(active)
        time.sleep(0.05)
    assert time.monotonic() - start < 5
    for sock in pair:
        assert read_to_end(sock) == b""
    exchange(active)


def test_an_idle_timeout_that_is_set_later_counts_for_open_connections(service: Service) -> None:
    service.route()
    pair = service.pair()
    exchange(pair)
    service.route(idle_timeout=0.2)
    for sock in pair:
        assert read_to_end(sock) == b""


def test_an_answer_that_times_out_half_way_is_not_taken_for_whole(service: Service) -> None:
    service.route(idle_timeout=0.5)
    client, server = service.pair(receive_buffer=4096)
    fill(server)
    service.control.counts_when("web", lambda counts: counts.generations[1].active == 0)
    assert was_reset(client)


# Counters


def test_counters_are_exact(service: Service) -> None:
    service.route(1)
    for _ in range(3):
        client, server = service.pair()
        client.sendall(b"q" * 1000)
        read(server, 1000)
        server.sendall(b"a" * 300_000)
        read(client, 300_000)
        client.close()
        server.close()
    counts = service.control.counts_when("web", lambda counts: counts.generations[1].active == 0).generations[1]
    assert counts.connections == 3
    assert (counts.received_client, counts.sent_backend) == (3000, 3000)
    assert (counts.received_backend, counts.sent_client) == (900_000, 900_000)
    assert sum(counts.duration.counts) == sum(counts.connect.counts) == 3
    assert counts.duration.sum > 0
    assert counts.connect.sum > 0
    assert counts.connect_errors == {}


def test_what_was_received_and_not_sent_is_not_counted_as_sent(service: Service) -> None:
    service.route(1)
    client, server = service.pair(receive_buffer=4096)
    sent = fill(server)
    counts = service.control.counts("web").generations[1]
    held = counts.received_backend - counts.sent_client
    assert 0 < held <= BUFFER
    assert counts.received_backend <= sent
    read(client, sent)
    counts = service.control.counts("web").generations[1]
    assert counts.received_backend == counts.sent_client == sent


def test_counters_never_go_back(service: Service) -> None:
    service.route(1)
    client, server = service.pair(receive_buffer=4096)
    fill(server)
    before = service.control.counts("web").generations[1]
    reset(client)
    after = service.control.counts_when("web", lambda counts: counts.generations[1].active == 0).generations[1]
    assert after.sent_client >= before.sent_client
    assert after.received_backend >= before.received_backend
    assert after.sent_client < after.received_backend


def test_services_are_counted_apart(service: Service) -> None:
    service.route(1)
    other = service.listener()
    service.control.listen("other", other)
    service.control.route("other", 7, service.backend.address)
    exchange(service.pair())
    assert service.control.counts("web").generations[1].connections == 1
    assert service.control.counts("other").generations[7].connections == 0


def test_a_service_with_very_many_generations_is_counted_whole(service: Service) -> None:
    """More than one message can hold."""
    numbers = range(1, 401)
    for number in numbers:
        service.route(number)
    *parts, _ack = service.control.answers(service.control.send(wire.Snapshot))
    assert len(parts) > 1
    assert [number for part in parts if isinstance(part, wire.Counts) for number in part.generations] == [*numbers]


def test_who_is_being_connected_may_arrive_when_the_service_ends(service: Service) -> None:
    """A route without a generation takes no new connection, and drops none that was on its way."""
    backend, knocker = service.full_listener()
    service.route(1, backend)
    client = service.client()
    client.sendall(b"?")
    service.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    service.control.route("web", 0, held=True)
    backend.accept().close()
    assert read(service.keep(backend.accept()), 1) == b"?"
    assert read_to_end(knocker) == b""
