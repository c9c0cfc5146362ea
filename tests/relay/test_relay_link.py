"""The link to control: in order, never in the way of the bytes, and relaying goes on without it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proxy import wire
from proxy.core.address import Address
from tests.relay.harness import Control, Listener, connect, decision, is_quiet, read

if TYPE_CHECKING:
    from tests.relay.harness import Service, WorkerProcess


def exchange(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    client.sendall(b"?")
    assert read(server, 1) == b"?"
    server.sendall(b"!")
    assert read(client, 1) == b"!"


def test_requests_are_answered_in_order(service: Service) -> None:
    numbers = [service.control.send(wire.Snapshot) for _ in range(50)]
    assert [service.control.answers(number)[-1].seq for number in numbers] == numbers


@pytest.mark.parametrize(
    "payload",
    [b'{"t":"route","seq":41,"service":"web","generation":2,"new_in_version_2":1}', b'{"t":"teleport","seq":41}'],
)
def test_a_request_of_another_version_is_answered_with_an_error(service: Service, payload: bytes) -> None:
    """Control must not wait for ever for an answer to what this worker does not know."""
    service.control.send_raw(payload)
    [ack] = service.control.answers(41)
    assert isinstance(ack, wire.Ack)
    assert "not a message" in ack.error
    service.route()
    exchange(service.pair())


@pytest.mark.parametrize("payload", [b"\xff", b"[]", b"7", b'{"t":"hello","version":1,"pid":1}', b'{"seq":"x"}'])
def test_nonsense_is_answered_with_an_error(service: Service, payload: bytes) -> None:
    service.control.send_raw(payload)
    [ack] = service.control.answers(0)
    assert isinstance(ack, wire.Ack)
    assert ack.error


def test_descriptors_that_nobody_asked_for_are_not_kept(service: Service, worker: WorkerProcess) -> None:
    before = worker.descriptors()
    read_end, write_end = os.pipe()
    number = service.control.send(wire.Snapshot, fds=(read_end, write_end))
    service.control.answers(number)
    number = service.control.send(wire.Listen, "web", ("a", "b", "c"), fds=(read_end,))
    assert "3 listeners were announced, 1 descriptors came" in service.control.answers(number)[-1].error
    number = service.control.send(wire.Listen, "web", ("a",), fds=(read_end,))
    assert service.control.answers(number)[-1].error
    os.close(read_end)
    os.close(write_end)
    assert worker.descriptors() == before


def test_relaying_goes_on_when_control_is_gone(service: Service, worker: WorkerProcess) -> None:
    service.route()
    pair = service.pair()
    service.control.close()
    exchange(pair)
    exchange(service.pair())


def test_held_clients_are_let_go_when_control_is_gone(service: Service) -> None:
    """A control that dies in the middle of a switch must not leave its clients hanging."""
    service.route()
    service.hold()
    client = service.client()
    client.sendall(b"?")
    service.control.counts_when("web", lambda counts: counts.waiting == 1)
    service.control.close()
    assert read(service.keep(service.backend.accept()), 1) == b"?"
    exchange(service.pair())


def test_a_switch_that_was_decided_is_made_when_control_is_gone(service: Service) -> None:
    new = service.listener()
    service.route()
    with decision(decided=True) as file:
        service.control.hold("web", wire.Route(0, "web", 2, (wire.Endpoint(0, new.address),)), file)
    client = service.client()
    client.sendall(b"?")
    service.control.counts_when("web", lambda counts: counts.waiting == 1)
    service.control.close()
    assert read(service.keep(new.accept()), 1) == b"?"


@pytest.mark.parametrize("decided", [False, True])
def test_all_workers_end_a_switch_in_the_same_way_when_control_is_gone(
    service: Service, fresh_worker: WorkerProcess, worker: WorkerProcess, *, decided: bool
) -> None:
    """Wherever control had got to: one generation gets all new connections, not one of each."""
    old, new = service.backend, service.listener()
    then = wire.Route(0, "web", 2, (wire.Endpoint(0, new.address),))
    publics = [service.public, service.listener()]
    fresh_worker.control.listen("web", publics[1])
    with decision(decided=False) as file:
        for control in (worker.control, fresh_worker.control):
            control.route("web", 1, old.address)
            control.hold("web", then, file)
        clients = [service.keep(connect(public.address)) for public in publics]
        for client in clients:
            client.sendall(b"?")
        for each in (worker, fresh_worker):
            each.control.counts_when("web", lambda counts: counts.waiting == 1)
        os.pwrite(file, b"1" if decided else b"0", 0)
    for each in (worker, fresh_worker):
        each.control.close()
    for _ in clients:
        assert read(service.keep((new if decided else old).accept()), 1) == b"?"
    for each in (worker, fresh_worker):
        [serving], descriptors = each.reconnect().describe()
        for fd in descriptors.values():
            os.close(fd)
        assert serving.route is not None
        assert serving.route.generation == (2 if decided else 1)


def test_a_switch_that_came_is_not_made_again_when_control_is_gone(service: Service, worker: WorkerProcess) -> None:
    before = worker.descriptors()
    service.route()
    with decision(decided=True) as file:
        service.control.hold("web", wire.Route(0, "web", 2), file)
        service.control.hold("web", wire.Route(0, "web", 2), file)
    service.route(3)
    assert worker.descriptors() == before, "the file is not kept"
    service.control = worker.reconnect()
    exchange(service.pair())
    assert service.control.counts("web").generations[3].connections == 1


@pytest.mark.parametrize(
    ("then", "error"),
    [
        (wire.Route(0, "web", 2, (wire.Endpoint(0, "nowhere"),)), "nowhere"),
        (wire.Route(0, "web", 2, balance="unfair"), "unfair"),
    ],
)
def test_a_switch_that_could_not_be_made_is_refused_at_once(service: Service, then: wire.Route, error: str) -> None:
    service.route()
    with decision(decided=True) as file:
        ack = service.control.answers(service.control.send(wire.Hold, "web", then, fds=(file,)))[-1]
    assert isinstance(ack, wire.Ack)
    assert error in ack.error
    assert "one descriptor" in service.control.refused(wire.Hold, "web", wire.Route(0, "web", 2))
    exchange(service.pair())


def test_a_worker_says_what_it_serves(service: Service, worker: WorkerProcess) -> None:
    """The next control takes it from here: routes, and listeners that nobody else may have open any more."""
    before = worker.descriptors()
    assert service.control.describe()[0] == [wire.Serving("web", None, (service.public.address,))]
    service.route(7, version="v7", idle_timeout=60.0)
    service.control.route("bare", 0)
    publics = {service.public.address, *(service.listener().address for _ in range(300))}
    for listener in service._open[2:]:
        assert isinstance(listener, Listener)
        service.control.listen("web", listener)
    servings, descriptors = service.control.describe()
    assert [serving.service for serving in servings] == ["web", "web", "bare"]
    route = servings[0].route
    assert route is not None
    assert route == wire.Route(
        route.seq, "web", 7, (wire.Endpoint(0, service.backend.address),), version="v7", idle_timeout=60.0
    )
    assert servings[1].route == route
    assert descriptors.keys() == publics
    for address, fd in descriptors.items():
        with socket.socket(fileno=fd) as listener:
            assert str(Address(*listener.getsockname())) == address
    for address in publics - {service.public.address}:
        service.control.ask(wire.Listen, "web", remove=(address,))
    service.control.ask(wire.Forget, "bare")
    service.control.counts("web")
    assert worker.descriptors() == before


def test_descriptors_wait_with_the_answer_that_they_belong_to(service: Service, worker: WorkerProcess) -> None:
    """A control that does not read for a while gets them all the same, also of a listener that was closed meanwhile."""
    service.control._sock.settimeout(0.3)
    numbers = []
    with contextlib.suppress(TimeoutError):
        while len(numbers) < 20_000:
            numbers.append(service.control.send(wire.Describe))
    service.control._sock.settimeout(20)
    for number in numbers:
        payload, fds, _flags, _ = socket.recv_fds(service.control._sock, wire.MAX_MESSAGE, wire.MAX_FDS)
        assert isinstance(wire.decode(payload), wire.Serving)
        assert len(fds) == 1
        os.close(fds[0])
        assert service.control.answers(number) == [wire.Ack(number)]


def test_what_could_not_be_sent_is_not_kept_when_control_is_gone(service: Service, worker: WorkerProcess) -> None:
    before = worker.descriptors()
    service.control._sock.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        for _ in range(20_000):
            service.control.send(wire.Describe)
    service.control = worker.reconnect()
    service.control.counts("web")
    assert worker.descriptors() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_somebody_else_is_not_let_in(service: Service, worker: WorkerProcess) -> None:
    """The socket's address may be one that has no file, and so no mode."""
    service.control.close()
    worker.path.parent.chmod(0o711)
    worker.path.chmod(0o777)
    code = (
        "import os, socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "os.chdir(sys.argv[1])\n"
        "os.setuid(65534)\n"
        "sock.connect('worker.sock')\n"
        "print(sock.recv(100))"
    )
    out = subprocess.run([sys.executable, "-c", code, str(worker.path.parent)], capture_output=True, check=True)
    assert out.stdout == b"b''\n"
    service.control = worker.reconnect()
    service.control.counts("web")


def test_a_pause_outlives_control(service: Service, worker: WorkerProcess) -> None:
    service.route(paused=True)
    client = service.client()
    client.sendall(b"?")
    service.control.counts_when("web", lambda counts: counts.waiting == 1)
    service.control = worker.reconnect()
    assert is_quiet(service.backend.sock)
    service.route()
    assert read(service.keep(service.backend.accept()), 1) == b"?"


def test_the_next_control_finds_everything_as_it_was(service: Service, worker: WorkerProcess) -> None:
    service.route()
    pair = service.pair()
    exchange(pair)
    service.control = worker.reconnect()
    counts = service.control.counts("web").generations[1]
    assert (counts.active, counts.connections, counts.sent_client) == (1, 1, 1)
    assert service.route(2) == {1: 1, 2: 0}
    exchange(pair)


def test_a_second_control_waits_until_the_first_is_gone(service: Service, worker: WorkerProcess) -> None:
    first = worker.control
    second = Control(worker.path)
    first.counts("web")
    assert is_quiet(second._sock)
    first.close()
    second.hello()
    assert second.counts("web")
    worker.control = second


def test_a_control_that_does_not_read_does_not_stop_the_bytes(service: Service, worker: WorkerProcess) -> None:
    service.route()
    pair = service.pair()
    sent = []
    service.control._sock.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while len(sent) < 20_000:
            sent.append(service.control.send(wire.Snapshot))
    assert len(sent) < 20_000, "the worker reads on, although it cannot answer"
    exchange(pair)
    assert worker.cpu_share(0.3) < 0.1
    service.control._sock.settimeout(20)
    for number in sent:
        assert service.control.answers(number)[-1] == wire.Ack(number)
    exchange(pair)


def test_a_message_as_long_as_they_get_is_understood(service: Service) -> None:
    endpoints = tuple(wire.Endpoint(number, f"127.0.0.1:{10000 + number}") for number in range(3000))
    payload = wire.encode(wire.Route(1, "web", 1, endpoints))
    assert len(payload) < wire.MAX_MESSAGE
    assert service.control.ask(wire.Route, "web", 1, endpoints, paused=True).connections == {1: 0}
    assert json.loads(payload)["t"] == "route"
