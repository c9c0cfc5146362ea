"""A client of the demo that overlooked a failure, or connected again in silence, would make its figures worthless."""

from __future__ import annotations

import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from proxy.cli.demo.connection import Connection, FailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Behaviour = Callable[[trio.SocketStream], Awaitable[None]]
    Answering = Callable[[Behaviour], Awaitable[Connection]]

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Version: v7\r\n\r\nyes"


@pytest.fixture
async def answering() -> AsyncIterator[Answering]:
    """A function that makes a server which treats every request the same way, and returns a connection to it."""
    connections: list[Connection] = []
    async with trio.open_nursery() as servers:

        async def make(behave: Behaviour) -> Connection:
            async def handle(stream: trio.SocketStream) -> None:
                async with stream:
                    while stream.socket.fileno() >= 0 and await stream.receive_some():
                        await behave(stream)

            listeners = await servers.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
            connections.append(Connection(listeners[0].socket.getsockname()[1]))
            return connections[-1]

        yield make
        for connection in connections:
            connection.close()
        servers.cancel_scope.cancel()


async def test_requests_go_over_one_connection_as_long_as_the_other_side_keeps_it(answering: Answering) -> None:
    connection = await answering(lambda stream: stream.send_all(GOOD))
    answers = [await connection.ask("POST", "/", b"x") for _ in range(3)]
    assert [answer.version for answer in answers] == ["v7"] * 3
    assert connection.is_open
    assert connection.reopened == 0


async def test_the_content_is_handed_on_whole(answering: Answering) -> None:
    pieces: list[bytes] = []
    connection = await answering(lambda stream: stream.send_all(GOOD))
    await connection.ask("GET", "/", on_piece=pieces.append)
    assert b"".join(pieces) == b"yes"


async def test_a_connection_that_an_answer_ends_is_counted_as_reopened_but_not_as_a_failure(
    answering: Answering,
) -> None:
    async def close(stream: trio.SocketStream) -> None:
        await stream.send_all(GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await stream.aclose()

    connection = await answering(close)
    for count in range(3):
        await connection.ask("GET", "/")
        assert not connection.is_open
        assert connection.reopened == count


async def test_a_connection_that_was_closed_while_idle_is_not_called_open_and_fails_the_next_request(
    answering: Answering,
) -> None:
    closed = trio.Event()

    async def close(stream: trio.SocketStream) -> None:
        await stream.send_all(GOOD)
        await stream.aclose()
        closed.set()

    connection = await answering(close)
    await connection.ask("GET", "/")
    await closed.wait()
    assert not connection.is_open
    with pytest.raises(FailedError):
        await connection.ask("GET", "/")
    await connection.ask("GET", "/")
    assert connection.reopened == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (GOOD[:-1], f"cut off after {len(GOOD) - 1} bytes"),
        (GOOD[:30], "cut off after 30 bytes"),
        (b"", "cut off after 0 bytes"),
        (b"yes\r\n\r\n", "cut off after 7 bytes"),
        (GOOD.replace(b"200 OK", b"502 Bad Gateway"), "answered with 502 Bad Gateway"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + GOOD, "answered with 103 Early Hints"),
    ],
)
async def test_a_bad_answer_is_a_failure(answering: Answering, content: bytes, reason: str) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(content)
        await stream.aclose()

    connection = await answering(answer)
    with pytest.raises(FailedError, match=reason):
        await connection.ask("GET", "/")
    assert not connection.is_open


async def test_a_reset_is_a_failure(answering: Answering) -> None:
    async def reset(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    connection = await answering(reset)
    with pytest.raises(FailedError, match="reset by peer"):
        await connection.ask("GET", "/")


@pytest.fixture
def unused_port() -> Iterator[int]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


async def test_a_refused_connection_is_a_failure(unused_port: int) -> None:
    with pytest.raises(FailedError, match="refused"):
        await Connection(unused_port).ask("GET", "/")


async def test_an_answer_that_does_not_come_is_a_failure(answering: Answering) -> None:
    async def never(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    connection = await answering(never)
    with pytest.raises(FailedError, match=r"no answer within 0\.05 s"):
        await connection.ask("GET", "/", patience=0.05)


async def test_a_websocket_that_is_not_granted_is_a_failure(answering: Answering) -> None:
    connection = await answering(lambda stream: stream.send_all(GOOD))
    with pytest.raises(FailedError, match="answered with 200 OK"):
        await connection.upgrade("/", {"Upgrade": "websocket", "Connection": "Upgrade"})
