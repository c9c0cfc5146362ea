"""When a worker has no room: connections wait in the kernel's queue, nothing spins, and it recovers by itself."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from proxy import wire
from proxy.relay import acceptor
from tests.relay.harness import Service, WorkerProcess, is_quiet, read, read_to_end

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def worker(fresh_worker: WorkerProcess) -> WorkerProcess:
    return fresh_worker


def test_out_of_descriptors_it_waits_without_spinning_and_recovers(service: Service, worker: WorkerProcess) -> None:
    service.route()
    served = [service.pair() for _ in range(3)]
    worker.limit_descriptors(worker.descriptors() + 3)
    waiting = [service.client() for _ in range(6)]
    for number, client in enumerate(waiting):
        client.sendall(b"%d" % number)
    first = service.keep(service.backend.accept())
    assert read(first, 1) == b"0"
    assert is_quiet(service.backend.sock)
    assert worker.cpu_share(2.0) < 0.05
    for client, server in served:
        client.sendall(b"still served")
        assert read(server, 12) == b"still served"
        client.close()
        server.close()
    got = {read(service.keep(service.backend.accept()), 1) for _ in range(3)}
    assert is_quiet(service.backend.sock)
    worker.limit_descriptors(1000)
    got |= {read(service.keep(service.backend.accept()), 1) for _ in range(2)}
    assert got == {b"1", b"2", b"3", b"4", b"5"}, "there is room again, although no connection was closed"
    assert "cannot accept" in worker.logged()


def test_a_client_that_was_accepted_with_the_last_descriptor_is_served_later(
    service: Service, worker: WorkerProcess
) -> None:
    service.route()
    served = service.pair()
    worker.limit_descriptors(worker.descriptors() + 1)
    client = service.client()
    client.sendall(b"?")
    counts = service.control.counts_when("web", lambda counts: counts.waiting == 1)
    assert counts.generations[1].connect_errors["other"] >= 1
    served[0].close()
    served[1].close()
    assert read(service.keep(service.backend.accept()), 1) == b"?"


def test_the_limit_of_descriptors_bounds_the_connections(tmp_path: Path) -> None:
    """The worker counts with its own limit, so that it never gets as far as to run out."""
    with WorkerProcess(tmp_path, descriptors=64 + 2 * 4) as worker:
        service = Service(worker, tmp_path)
        service.route()
        served = [service.pair() for _ in range(4)]
        late = service.client()
        late.sendall(b"late")
        assert is_quiet(service.backend.sock)
        assert worker.cpu_share(0.5) < 0.05
        served[0][0].close()
        served[0][1].close()
        assert read(service.keep(service.backend.accept()), 4) == b"late"
        assert service.control.counts("web").generations[1].connect_errors == {}
        assert "at the limit of connections" in worker.logged()
        service.close()


def test_connections_over_the_services_share_wait_their_turn(service: Service, worker: WorkerProcess) -> None:
    service.route(max_connections=2)
    first, _second = service.pair(), service.pair()
    third = service.client()
    third.sendall(b"third")
    assert is_quiet(service.backend.sock)
    assert worker.cpu_share(0.5) < 0.05
    first[0].close()
    assert read_to_end(first[1]) == b""
    first[1].close()
    assert read(service.keep(service.backend.accept()), 5) == b"third"


def test_a_larger_share_lets_those_in_who_waited(service: Service) -> None:
    service.route(max_connections=0)
    client = service.client()
    client.sendall(b"x")
    assert is_quiet(service.backend.sock)
    assert service.control.counts("web").waiting == 0
    service.route(max_connections=None)
    assert read(service.keep(service.backend.accept()), 1) == b"x"


def test_another_worker_takes_what_one_has_no_room_for(service: Service, tmp_path: Path) -> None:
    service.route(max_connections=0)
    folder = tmp_path / "other"
    folder.mkdir()
    with WorkerProcess(folder) as other:
        other.control.listen("web", service.public)
        other.control.route("web", 1, service.backend.address)
        service.pair()
        assert other.control.counts("web").generations[1].active == 1


def test_a_listener_that_is_removed_gives_up_what_waits_in_its_queue(service: Service, worker: WorkerProcess) -> None:
    """No connection that the kernel has accepted is lost when a listener goes."""
    service.route(max_connections=1)
    service.pair()
    queued = [service.client() for _ in range(3)]
    for client in queued:
        client.sendall(b"x")
    service.control.ask(wire.Listen, "web", remove=(service.public.address,))
    service.public.close()
    for _ in queued:
        assert read(service.keep(service.backend.accept()), 1) == b"x"
    with pytest.raises(ConnectionRefusedError):
        service.client()


def test_a_listener_that_others_still_have_does_not_wake_a_worker_that_gave_it_up(
    service: Service, worker: WorkerProcess
) -> None:
    """What epoll watches is the open file, not the number: closing alone would leave it registered."""
    service.route()
    service.control.ask(wire.Listen, "web", remove=(service.public.address,))
    before = worker.cpu()
    clients = [service.client() for _ in range(20)]
    assert is_quiet(service.backend.sock)
    assert worker.cpu() - before < 0.05
    assert worker.cpu_share(0.5) < 0.03
    assert len(clients) == 20


def test_a_listener_passed_again_takes_the_place_of_the_one_before(service: Service, worker: WorkerProcess) -> None:
    service.route()
    before = worker.descriptors()
    service.control.listen("web", service.public)
    assert worker.descriptors() == before
    client, server = service.pair()
    client.sendall(b"x")
    assert read(server, 1) == b"x"


def test_taking_a_listener_never_lets_another_worker_that_has_it_block_in_accept() -> None:
    """O_NONBLOCK belongs to the open file, which all workers share: it must not be cleared, not for a moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with acceptor._copy(listener.fileno()):
            assert not os.get_blocking(listener.fileno())


def test_who_connects_does_not_wait_for_a_worker_that_hangs(
    service: Service, worker: WorkerProcess, tmp_path: Path
) -> None:
    """The kernel wakes one of the workers that listen, and it may be the one that does not get to run."""
    folder = tmp_path / "other"
    folder.mkdir()
    with WorkerProcess(folder) as other:
        service.route()
        other.control.route("web", 1, service.backend.address)
        other.control.listen("web", service.public)
        for hanging in (worker, other):
            hanging.freeze()
            for _ in range(3):
                client, server = service.pair()
                client.sendall(b"?")
                assert read(server, 1) == b"?"
            hanging.thaw()


def _keep(service: Service) -> None:
    service.control.ask(
        wire.Listen, "web", add=(service.public.address,), fds=(service.public.sock.fileno(),), accept=False
    )


def test_a_listener_that_is_only_kept_is_left_to_those_who_accept_on_it(
    service: Service, worker: WorkerProcess
) -> None:
    service.route()
    before = worker.descriptors()
    _keep(service)
    assert worker.descriptors() == before
    clients = [service.client() for _ in range(20)]
    assert is_quiet(service.backend.sock)
    assert worker.cpu_share(0.5) < 0.03, "nor does the queue wake it"
    for _ in clients:
        service.keep(service.public.accept())
    service.route(max_connections=0)
    service.route(max_connections=None)
    service.keep(service.client())
    assert is_quiet(service.backend.sock), "room again is nothing to it"


def test_what_waits_when_a_worker_stops_accepting_is_served_by_it(service: Service) -> None:
    """By the policy that there still is: nobody is handed over twice."""
    service.route(max_connections=1)
    service.pair()
    queued = [service.client() for _ in range(3)]
    _keep(service)
    for client in queued:
        client.sendall(b"x")
        assert read(service.keep(service.backend.accept()), 1) == b"x"


def test_a_listener_that_was_kept_is_accepted_on_again(service: Service) -> None:
    service.route()
    _keep(service)
    waiting = service.client()
    waiting.sendall(b"x")
    service.control.listen("web", service.public)
    assert read(service.keep(service.backend.accept()), 1) == b"x"
    service.pair()


def test_a_listener_that_is_kept_outlives_control_and_is_not_drained_when_it_goes(service: Service) -> None:
    """Control's own copy may be gone; and what is in the queue is for the backends that accept."""
    _keep(service)
    waiting = service.client()
    waiting.sendall(b"x")
    (serving,), found = service.control.describe()
    assert (serving.listeners, serving.accept) == ((service.public.address,), False)
    for descriptor in found.values():
        os.close(descriptor)
    service.control.ask(wire.Listen, "web", remove=(service.public.address,))
    assert read(service.keep(service.public.accept()), 1) == b"x"


def test_a_listener_that_is_kept_stays_as_backends_were_promised_it() -> None:
    """One that blocks (systemd.exec(5), NonBlocking): a server that was not told otherwise relies on it."""
    with socket.create_server(("127.0.0.1", 0)) as one, acceptor._copy(one.fileno(), accept=False) as copy:
        assert os.get_blocking(one.fileno())
        assert not os.get_inheritable(copy.fileno())
    with socket.socket() as deaf, pytest.raises(ValueError, match="does not listen"):
        acceptor._copy(deaf.fileno(), accept=False)
