"""The link to control: in order, never in the way of the bytes, and relaying goes on without it."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

import pytest

from proxy import wire
from tests.relay.harness import Control, is_quiet, read

if TYPE_CHECKING:
    import socket

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
    service.hold()
    client = service.client()
    client.sendall(b"?")
    service.control.counts_when("web", lambda counts: counts.waiting == 1)
    service.control.close()
    assert read(service.keep(service.backend.accept()), 1) == b"?"
    exchange(service.pair())


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
