"""On the way to a backend: which endpoint, what if it does not answer, and how long that may take."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from proxy import wire
from tests.relay.harness import is_quiet, read, read_to_end, reset, was_reset

if TYPE_CHECKING:
    from tests.relay.harness import Listener, Service, WorkerProcess


def closed(service: Service, kind: str = "ipv4") -> Listener:
    """An address where nobody listens any more."""
    listener = service.listener(kind)
    listener.close()
    return listener


@pytest.mark.parametrize("kind", ["ipv4", "ipv6", "unix"])
def test_an_endpoint_that_is_gone_costs_its_clients_nothing(service: Service, kind: str) -> None:
    service.route(1, closed(service, kind), service.backend)
    for _ in range(4):
        client = service.client()
        client.sendall(b"x")
        assert read(service.keep(service.backend.accept()), 1) == b"x"
    counts = service.control.counts("web")
    assert counts.generations[1].connections == 4
    assert counts.generations[1].connect_errors["refused"] >= 1
    assert counts.refused == {}


def test_an_endpoint_that_does_not_answer_leaves_time_for_the_others(service: Service) -> None:
    service.route(1, service.full_listener()[0], service.backend, balance="round_robin", connect_timeout=4.0)
    start = time.monotonic()
    clients = [service.client(), service.client()]
    for client in clients:
        client.sendall(b"x")
    for _ in clients:
        assert read(service.keep(service.backend.accept()), 1) == b"x"
    assert time.monotonic() - start < 3
    assert service.control.counts("web").generations[1].connect_errors == {"timeout": 1}


def test_a_client_waits_for_a_backend_that_is_just_starting(service: Service) -> None:
    path = service.folder / "late.sock"
    service.control.route("web", 1, f"unix:{path}")
    client = service.client()
    client.sendall(b"hello")
    service.control.counts_when("web", lambda counts: counts.generations[1].connect_errors.get("refused", 0) >= 2)
    backend = service.keep(socket.socket(socket.AF_UNIX))
    backend.bind(str(path))
    backend.listen()
    server, _ = backend.accept()
    assert read(service.keep(server), 5) == b"hello"
    assert service.control.counts("web").refused == {}


def test_a_client_goes_to_the_next_route_as_soon_as_there_is_one(service: Service) -> None:
    service.route(1, closed(service), connect_timeout=10.0)
    client = service.client()
    client.sendall(b"x")
    service.control.counts_when("web", lambda counts: counts.waiting == 1)
    service.route(2)
    assert read(service.keep(service.backend.accept()), 1) == b"x"


def test_without_a_backend_in_time_the_client_is_told(service: Service) -> None:
    service.route(1, closed(service), connect_timeout=0.3)
    start = time.monotonic()
    client = service.client()
    assert was_reset(client)
    assert 0.25 < time.monotonic() - start < 2
    counts = service.control.counts("web")
    assert counts.refused == {"no_backend": 1}
    assert counts.waiting == 0
    assert counts.generations[1].active == 0
    assert 2 <= counts.generations[1].connect_errors["refused"] <= 8, "retries grow apart"


def test_a_service_without_endpoints_holds_its_clients_for_the_connect_timeout(service: Service) -> None:
    service.control.route("web", 1, connect_timeout=0.3)
    assert was_reset(service.client())
    assert service.control.counts("web").refused == {"no_backend": 1}
    client = service.client()
    client.sendall(b"x")
    service.route(1)
    assert read(service.keep(service.backend.accept()), 1) == b"x"


def test_a_lone_endpoint_that_does_not_answer_is_given_the_whole_time(service: Service) -> None:
    service.route(1, service.full_listener()[0], connect_timeout=0.5)
    assert was_reset(service.client())
    counts = service.control.counts("web")
    assert counts.refused == {"no_backend": 1}
    assert counts.generations[1].connect_errors == {"timeout": 1}


def test_an_attempt_under_way_goes_to_the_new_generation(service: Service) -> None:
    """After the switch is acknowledged nothing new reaches the old generation, not even what had begun."""
    hole = service.full_listener()[0]
    service.route(1, hole)
    client = service.client()
    client.sendall(b"x")
    service.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    assert service.route(2) == {2: 1}
    assert read(service.keep(service.backend.accept()), 1) == b"x"
    assert service.control.counts("web").generations[1].active == 0


def test_an_attempt_under_way_is_closed_with_its_generation(service: Service) -> None:
    service.route(1, service.full_listener()[0])
    client = service.client()
    service.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    assert service.control.ask(wire.Close, "web", 1).forced == 1
    assert was_reset(client)


def test_what_a_backend_says_before_its_connection_was_noticed_is_heard(
    service: Service, worker: WorkerProcess
) -> None:
    """The edge of its greeting is the edge of the connection: it will not come again."""
    backend, _ = service.full_listener()
    service.route(1, backend)
    client = service.client()
    service.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    worker.freeze()
    backend.accept().close()
    server = service.keep(backend.accept())
    server.sendall(b"220 ready")
    worker.thaw()
    assert read(client, 9) == b"220 ready"
    server.sendall(b", really")
    server.close()
    assert read_to_end(client) == b", really"


def test_what_a_backend_says_before_it_resets_is_heard_however_soon_that_is(
    service: Service, worker: WorkerProcess
) -> None:
    """It is connected, greets and resets before the worker looks: that was no failure to connect."""
    backend, _ = service.full_listener()
    service.route(1, backend)
    client = service.client()
    service.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    worker.freeze()
    backend.accept().close()
    server = service.keep(backend.accept())
    server.sendall(b"421 go away")
    reset(server)
    worker.thaw()
    assert read(client, 11) == b"421 go away"
    assert was_reset(client)
    counts = service.control.counts("web").generations[1]
    assert (counts.active, counts.connections, counts.connect_errors) == (0, 1, {})


def test_a_backend_that_resets_at_once_is_not_asked_again(service: Service) -> None:
    service.route()
    for _ in range(20):
        client = service.client()
        reset(service.backend.accept())
        assert was_reset(client)
    assert service.control.counts("web").generations[1].connections == 20


# Clients that leave


def test_a_client_that_resets_while_it_waits_is_dropped(service: Service) -> None:
    service.hold()
    client, other = service.client(), service.client()
    service.control.counts_when("web", lambda counts: counts.waiting == 2)
    reset(client)
    service.control.counts_when("web", lambda counts: counts.waiting == 1)
    service.route()
    other.sendall(b"x")
    assert read(service.keep(service.backend.accept()), 1) == b"x"
    assert is_quiet(service.backend.sock)


def test_a_unix_client_that_leaves_while_it_waits_is_dropped(service: Service) -> None:
    service.public = service.listener("unix")
    service.control.listen("web", service.public)
    service.hold()
    client = service.client()
    service.control.counts_when("web", lambda counts: counts.waiting == 1)
    client.close()
    service.control.counts_when("web", lambda counts: counts.waiting == 0)


def test_a_client_that_resets_while_it_is_connected_is_noticed_at_the_latest_then(service: Service) -> None:
    service.route(1, service.full_listener()[0], connect_timeout=0.5)
    client = service.client()
    service.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    reset(client)
    service.control.counts_when("web", lambda counts: counts.generations[1].active == 0)


# Balance


def test_least_goes_where_fewest_connections_are(service: Service) -> None:
    backends = [service.listener() for _ in range(2)]
    service.route(1, *backends, balance="least")
    for _ in range(4):
        service.client().sendall(b"x")
    servers = [service.keep(backend.accept()) for backend in backends for _ in range(2)]
    for server in servers:
        assert read(server, 1) == b"x"
    for server in servers[:2]:
        reset(server)
    service.control.counts_when("web", lambda counts: counts.generations[1].active == 2)
    for _ in range(2):
        service.client()
        service.keep(backends[0].accept())
    assert is_quiet(backends[1].sock)


def test_round_robin_goes_to_each_in_turn(service: Service) -> None:
    backends = [service.listener() for _ in range(3)]
    service.route(1, *backends, balance="round_robin")
    for _ in range(6):
        service.client()
    for backend in backends:
        for _ in range(2):
            service.keep(backend.accept())
        assert is_quiet(backend.sock)
