"""A client of the demo that overlooked a failure would make "0 failed" worthless."""

from __future__ import annotations

import socket
import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from proxy.cli.demo.clients import FailedError, Load, fetch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GOOD = b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nX-Version: v7\r\n\r\nyes"


async def answering(nursery: trio.Nursery, behave: Callable[[trio.SocketStream], Awaitable[None]]) -> int:
    """A server that treats every connection the same way; returns its port."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await behave(stream)

    listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
    return int(listeners[0].socket.getsockname()[1])


async def test_a_whole_answer_counts_for_the_version_that_gave_it(nursery: trio.Nursery) -> None:
    port = await answering(nursery, lambda stream: stream.send_all(GOOD))
    assert (await fetch(port)).version == "v7"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (GOOD[:-1], f"cut off after {len(GOOD) - 1} bytes"),
        (GOOD[:30], "cut off after 30 bytes"),
        (b"", "cut off after 0 bytes"),
        (GOOD.replace(b"200 OK", b"502 Bad Gateway"), "502 Bad Gateway"),
    ],
)
async def test_a_bad_answer_is_a_failure(nursery: trio.Nursery, content: bytes, reason: str) -> None:
    port = await answering(nursery, lambda stream: stream.send_all(content))
    with pytest.raises(FailedError, match=reason):
        await fetch(port)


async def test_a_reset_is_a_failure(nursery: trio.Nursery) -> None:
    async def reset(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.lowlevel.checkpoint()

    port = await answering(nursery, reset)
    with pytest.raises(FailedError, match="reset by peer"):
        await fetch(port)


async def test_a_refused_connection_is_a_failure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(FailedError, match="refused"):
            await fetch(unused.getsockname()[1])


async def test_an_answer_that_does_not_come_is_a_failure(nursery: trio.Nursery) -> None:
    async def never(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    port = await answering(nursery, never)
    with pytest.raises(FailedError, match=r"no answer within 0\.05 s"):
        await fetch(port, patience=0.05)
    nursery.cancel_scope.cancel()


async def test_a_load_counts_each_answer_and_each_failure(nursery: trio.Nursery) -> None:
    load: Load

    async def every_third_fails(stream: trio.SocketStream) -> None:
        await stream.send_all(GOOD if load.sent % 3 else b"")
        if load.sent >= 9:
            load.stop()

    load = Load(await answering(nursery, every_third_fails), clients=1)
    await load.run()
    assert (load.sent, load.failed) == (10, 4)
    assert load.versions() == {"v7": 6}
    nursery.cancel_scope.cancel()


async def test_answers_are_told_apart_by_when_their_connection_began(nursery: trio.Nursery) -> None:
    port = await answering(nursery, lambda stream: stream.send_all(GOOD))
    load = Load(port)
    load.answers.append(await fetch(port))
    between = trio.current_time()
    load.answers.append(await fetch(port))
    assert load.versions(until=between).total() == load.versions(since=between).total() == 1
    nursery.cancel_scope.cancel()
