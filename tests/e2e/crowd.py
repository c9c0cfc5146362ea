"""Many clients of many kinds at once, each on one connection that it never opens again, as trio tasks."""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Self

import trio

from proxy.cli.demo import websocket
from tests.e2e.harness import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType

_PAUSE = 0.02  # seconds between two messages of a busy client
_CHUNK = 1 << 16


class LostError(Exception):
    """What a client got is not what it should have got."""


class Crowd:
    """A context manager. Clients go on until it is left, or as far as they have to; then `errors` has what each kind
    has lost, and `done` how much each of them did.
    """

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        self.done: dict[str, list[int]] = {}
        """By kind, the messages of each of its clients."""
        self.is_over = trio.Event()
        """Set when what has an end of its own need not last any longer."""
        self._manager = trio.open_nursery()

    async def __aenter__(self) -> Self:
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.is_over.set()
        if error:
            self._nursery.cancel_scope.cancel()
        self._nursery.cancel_scope.deadline = trio.current_time() + PATIENCE
        await self._manager.__aexit__(kind, error, at)

    async def join(self, kind: str, count: int, port: int, **options: int) -> None:
        """Begin so many clients, which are named like the methods of Client; returns when all are served."""
        self.done[kind] = [0] * count
        async with trio.open_nursery() as coming:
            for number in range(count):
                client = Client(self, kind, number, port)
                story = partial(getattr(client, kind), **options)
                coming.start_soon(self._nursery.start, self._live, kind, story)

    async def _live(self, kind: str, story: Callable[..., Awaitable[None]], task_status: trio.TaskStatus[None]) -> None:
        is_served = trio.Event()

        def started() -> None:
            if not is_served.is_set():
                is_served.set()
                task_status.started()

        try:
            await story(started)
        except* (OSError, ValueError, LostError, trio.BrokenResourceError, trio.TooSlowError) as errors:
            self.errors[f"{kind}: {errors.exceptions[0]!r}"] += 1
        started()

    async def progress(self) -> None:
        """Wait until each that asks again and again has had another answer."""
        before = {kind: tuple(self.done[kind]) for kind in ("echo", "posts", "socket") if kind in self.done}
        with trio.fail_after(PATIENCE):
            while not self.errors and any(
                count <= earlier
                for kind in before
                for count, earlier in zip(self.done[kind], before[kind], strict=True)
            ):
                await trio.sleep(_PAUSE)


class Client:
    """One of the crowd; the methods are what there is."""

    def __init__(self, crowd: Crowd, kind: str, number: int, port: int) -> None:
        self._crowd, self._kind, self._number, self._port = crowd, kind, number, port
        self._chance = random.Random(number)
        self._received = b""

    async def idle(self, started: Callable[[], None]) -> None:
        """TCP, with nothing to say until the end."""
        async with self._connection() as stream:
            await self._echo(stream, b"echo\n", b"early")
            started()
            await self._crowd.is_over.wait()
            await self._echo(stream, b"", b"late")

    async def echo(self, started: Callable[[], None]) -> None:
        """TCP, messages of some bytes to some hundred kilobytes, and each comes back."""
        async with self._connection() as stream:
            await self._echo(stream, b"echo\n", b"first")
            started()
            while not self._crowd.is_over.is_set():
                size = self._chance.choice((10, 1000, 20_000, 300_000))
                await self._echo(stream, b"", self._chance.randbytes(size))
                await trio.sleep(_PAUSE)

    async def posts(self, started: Callable[[], None]) -> None:
        """HTTP, one request after the other, each counted by the backend."""
        async with self._connection() as stream:
            while not self._crowd.is_over.is_set():
                identity = f"{self._number}-{self._crowd.done[self._kind][self._number]}"
                head = f"POST /ids/{identity} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
                await stream.send_all(head.encode() + b"123456789")
                await self._answer(stream, identity)
                started()
                await trio.sleep(_PAUSE)

    async def socket(self, started: Callable[[], None]) -> None:
        """A websocket whose messages come back."""
        async with self._connection() as stream:
            head = "GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            head += f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {websocket.new_key()}\r\n\r\n"
            await stream.send_all(head.encode())
            if " 101 " not in await self._head(stream):
                raise LostError("no websocket")
            frames, self._received = websocket.Frames(masked=False), b""
            while not self._crowd.is_over.is_set():
                message = f"message {self._crowd.done[self._kind][self._number]}"
                await stream.send_all(websocket.encode(websocket.TEXT, message.encode(), masked=True))
                while (frame := frames.take()) is None:
                    frames.feed(await self._some(stream))
                if frame.opcode == websocket.PING:
                    continue
                if not frame.payload.decode().endswith(f" {message}"):
                    raise LostError(f"not {message}: {frame}")
                self._did()
                started()
                await trio.sleep(_PAUSE)
            await stream.send_all(websocket.encode(websocket.CLOSE, websocket.CLOSE_NORMAL, masked=True))

    async def events(self, started: Callable[[], None]) -> None:
        """An event stream."""
        async with self._connection() as stream:
            await stream.send_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if " 200 " not in await self._head(stream):
                raise LostError("no event stream")
            started()
            while not self._crowd.is_over.is_set():
                self._received = (self._received + await self._some(stream))[-_CHUNK:]
                self._did()

    async def download(self, started: Callable[[], None], *, size: int, rate: int) -> None:
        """A response with its hash; `rate` bytes a second until the crowd is told that it is over, then all at once."""
        async with self._connection() as stream:
            await stream.send_all(f"GET /bytes/{size} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = await self._head(stream)
            wanted = head.lower().partition("x-sha256: ")[2].partition("\r\n")[0]
            started()
            sha256, left = hashlib.sha256(self._received), size - len(self._received)
            while left:
                piece = await self._some(stream)
                sha256.update(piece)
                left -= len(piece)
                await self._wait(len(piece) / rate)
            if sha256.hexdigest() != wanted:
                raise LostError("the download is not what was sent")
            self._did()

    async def upload(self, started: Callable[[], None], *, size: int, rate: int) -> None:
        """TCP; the end is a half-close, and the answer comes after it."""
        async with self._connection() as stream:
            await stream.send_all(b"take\n")
            started()
            sha256, block = hashlib.sha256(), os.urandom(_CHUNK)
            for number in range(size // _CHUNK):
                piece = number.to_bytes(8, "big") + block[8:]
                sha256.update(piece)
                await stream.send_all(piece)
                await self._wait(_CHUNK / rate)
            await stream.send_eof()
            answer = b""
            while piece := bytes(await stream.receive_some()):
                answer += piece
            if answer.decode() != sha256.hexdigest():
                raise LostError(f"the upload is not what was sent: {answer[:100]!r}")
            self._did()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[trio.SocketStream]:
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as stream:
            yield stream

    async def _echo(self, stream: trio.SocketStream, before: bytes, message: bytes) -> None:
        async with trio.open_nursery() as sending:
            sending.start_soon(stream.send_all, before + message)
            received = bytearray()
            while len(received) < len(message):
                received += await self._some(stream)
        if received != message:
            raise LostError(f"{len(message)} bytes came back as others")
        self._did()

    async def _answer(self, stream: trio.SocketStream, identity: str) -> None:
        head = await self._head(stream)
        length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
        while len(self._received) < length:
            self._received += await self._some(stream)
        body, self._received = self._received[:length].decode(), self._received[length:]
        if " 200 " not in head or not body.endswith(f" {identity}"):
            raise LostError(f"{identity}: {head.splitlines()[0]} {body}")
        self._did()

    async def _head(self, stream: trio.SocketStream) -> str:
        while b"\r\n\r\n" not in self._received:
            self._received += await self._some(stream)
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        return head.decode() + "\r\n"

    async def _some(self, stream: trio.SocketStream) -> bytes:
        with trio.fail_after(PATIENCE):
            piece = bytes(await stream.receive_some(_CHUNK))
        if not piece:
            raise LostError("the connection has ended")
        return piece

    async def _wait(self, seconds: float) -> None:
        """So long, unless it is over."""
        with trio.move_on_after(seconds):
            await self._crowd.is_over.wait()

    def _did(self) -> None:
        self._crowd.done[self._kind][self._number] += 1
