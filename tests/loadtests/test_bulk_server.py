"""Bulk: every byte that is asked for is sent, every byte that is sent is waited for, and a short one is no result."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loadtests.machine import ROOT, free_port
from loadtests.model import Backends, Running
from loadtests.scenarios.bulk import GIB, bulk_down, bulk_up
from loadtests.scenarios.bulk_server import PIECE
from tests.loadtests.scripted import web

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNT = 2 * PIECE + 12_345


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    number = free_port()
    command = [sys.executable, "-m", "loadtests.scenarios.bulk_server", str(number)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield number
        finally:
            process.terminate()


@pytest.fixture
def client(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connected:
        yield connected


def head_of(client: socket.socket) -> bytes:
    """Exactly the next answer's head."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = client.recv(1)
        assert byte, head
        head += byte
    return head


def body_of(client: socket.socket, count: int) -> None:
    while count:
        taken = len(client.recv(min(count, PIECE)))
        assert taken, f"{count} bytes are missing"
        count -= taken


def download(client: socket.socket, count: int) -> None:
    client.sendall(b"GET /bytes/%d HTTP/1.1\r\nHost: bulk\r\n\r\n" % count)
    head = head_of(client)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: %d\r\n" % count in head
    body_of(client, count)


def upload(client: socket.socket, count: int, method: bytes = b"PUT") -> None:
    client.sendall(method + b" /sink HTTP/1.1\r\nHost: bulk\r\nContent-Length: %d\r\n\r\n" % count + bytes(count))
    assert head_of(client) == b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize("count", [0, 1, PIECE, _COUNT])
def test_a_connection_is_kept_over_bodies_of_any_size_both_ways(client: socket.socket, count: int) -> None:
    download(client, count)
    upload(client, count)
    upload(client, count, b"POST")
    download(client, count)


def test_requests_that_come_together_are_answered_in_turn(client: socket.socket) -> None:
    client.sendall(
        b"PUT /sink HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello"
        b"GET /bytes/10 HTTP/1.1\r\n\r\nGET /bytes/20 HTTP/1.1\r\nConnection: close\r\n\r\n"
    )
    assert head_of(client).startswith(b"HTTP/1.1 204 ")
    for count in (10, 20):
        assert b"Content-Length: %d\r\n" % count in head_of(client)
        body_of(client, count)
    assert client.recv(1) == b""


def test_an_upload_is_answered_when_all_of_it_is_there(client: socket.socket) -> None:
    client.sendall(b"PUT /sink HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % _COUNT + bytes(_COUNT - 1))
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    client.settimeout(60)
    client.sendall(b"x")
    assert head_of(client).startswith(b"HTTP/1.1 204 ")


def test_a_client_that_waits_before_its_body_is_told_to_go_on(client: socket.socket) -> None:
    client.sendall(b"PUT /sink HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert head_of(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"abc")
    assert head_of(client).startswith(b"HTTP/1.1 204 ")


def test_a_client_that_does_not_read_holds_up_nobody_else(client: socket.socket, port: int) -> None:
    client.sendall(b"GET /bytes/%d HTTP/1.1\r\n\r\n" % GIB)
    assert head_of(client).startswith(b"HTTP/1.1 200 ")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as other:
        download(other, _COUNT)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /small", b"404"),
        (b"GET /bytes/x", b"404"),
        (b"DELETE /sink", b"404"),
        (b"PUT /sink", b"411"),
    ],
)
def test_what_it_does_not_have_is_said(client: socket.socket, request_line: bytes, status: bytes) -> None:
    client.sendall(request_line + b" HTTP/1.1\r\nHost: bulk\r\n\r\n")
    assert head_of(client).split(b" ")[1] == status
    assert client.recv(1) == b""


@pytest.mark.parametrize("scenario", [bulk_down, bulk_up])
def test_a_transfer_is_measured_in_mib_per_second(scenario, port: int) -> None:
    running = Running({port: port}, frozenset, frozenset)
    sample = scenario(_COUNT).run(running, Backends(port, port, port), 1.0)
    assert set(sample) == {"rate", "errors"}
    assert sample["rate"] > 0
    assert sample["errors"] == 0


def test_bulk_through_this_proxy_has_every_column(relayed: tuple[Running, Backends]) -> None:
    for scenario in (bulk_down(256 << 20), bulk_up(256 << 20)):
        sample = scenario.run(*relayed, 1.0)
        assert set(sample) == {column.name for column in scenario.columns}
        assert sample["errors"] == 0
        assert sample["cpu"] == pytest.approx(sample["user"] + sample["system"])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", "95 bytes of a body are missing"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n" + bytes(101), "more came than 100 bytes"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "not 200: HTTP/1.1 404 Not Found"),
        (b"", "without an answer"),
    ],
    ids=["too short", "too long", "404", "none"],
)
def test_a_download_that_is_not_what_was_asked_for_is_an_error(
    answer: bytes, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with web(lambda _: (answer, True)) as server:
        sample = bulk_down(100).run(*server.running(), 1.0)
    assert sample == {"errors": 1}
    assert reason in capfd.readouterr().err
