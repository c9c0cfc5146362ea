"""Pools of real workers that outlive the pool, as after a crash of the control process; and who talks through them."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import trio

from proxy import wire
from proxy.control import worker
from proxy.control.ending import Ending
from proxy.control.events import Bus
from proxy.control.trouble import Troubles
from proxy.control.workers import WorkerPool
from proxy.kernel import procfs

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from proxy.control.state import ProcessRecord
    from proxy.control.worker import Worker

PATIENCE = 20.0  # seconds; nothing waits this long when all is well
SERVICE = "web"


class Life:
    """A control process, as far as workers know it: `crash` ends it without a word."""

    def __init__(self, folder: Path, count: int) -> None:
        self.bus = Bus()
        self.troubles = Troubles()
        self.ending = Ending()
        self.pool = WorkerPool(count, folder, self.bus, "text", ending=self.ending, troubles=self.troubles)
        self.nursery: trio.Nursery
        self.seen: list[Worker] = []
        self._over = trio.Event()
        self._scope = trio.CancelScope()

    async def run(
        self, found: Iterable[Worker] = (), task_status: trio.TaskStatus[Self] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with self._scope:
            async with trio.open_nursery() as self.nursery:
                await self.nursery.start(self.pool.run, found)
                task_status.started(self)
                await trio.sleep_forever()
        self._over.set()

    async def crash(self) -> None:
        self.seen += self.pool.workers
        self._scope.cancel()
        await self._over.wait()
        for each in self.seen:
            each.link.close()

    async def end(self) -> None:
        """Stop in order, unless it has crashed; what is left after a crash is killed."""
        self.ending.is_orderly = True
        if not self._over.is_set():
            self._scope.cancel()
            await self._over.wait()
        for each in self.seen:
            each.process.kill()
            await each.process.wait()


class Lives:
    """One control process after the other, on the same state folder. Nothing of them is left in the end."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder = folder
        self._nursery = nursery
        self._lives: list[Life] = []
        self._found: list[Worker] = []

    async def begin(self, count: int = 1, found: Iterable[Worker] = ()) -> Life:
        life = Life(self.folder, count)
        self._lives.append(life)
        with trio.fail_after(PATIENCE):
            await self._nursery.start(life.run, found)
        return life

    async def find(self, *recorded: ProcessRecord) -> list[Worker]:
        """What the next one finds."""
        with trio.fail_after(PATIENCE):
            found = await worker.find(self.folder, recorded)
        self._found += found
        return found

    async def end(self) -> None:
        for life in self._lives:
            await life.end()
        for each in self._found:
            each.stream.close()
            for listeners in each.listeners.values():
                for listener in listeners.values():
                    listener.close()


@asynccontextmanager
async def lives(folder: Path) -> AsyncIterator[Lives]:
    before = procfs.children(os.getpid())
    async with trio.open_nursery() as nursery:
        made = Lives(folder, nursery)
        try:
            yield made
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE):
                await made.end()
            nursery.cancel_scope.cancel()
    assert procfs.children(os.getpid()) <= before


class Backends:
    """Each greets with its name, and answers everything with it; `of` gives its endpoint."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def start(self, name: bytes) -> tuple[wire.Endpoint, ...]:
        serve = partial(trio.serve_tcp, partial(_answer, name), 0, host="127.0.0.1")
        (listener,) = await self._nursery.start(serve)
        return (wire.Endpoint(0, f"127.0.0.1:{listener.socket.getsockname()[1]}"),)


async def _answer(name: bytes, stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        async with stream:
            await stream.send_all(name)
            async for _ in stream:
                await stream.send_all(name)


class Client:
    """Connected through the proxy; `heard` is what its backend greeted with."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.heard = b""

    async def listen(self) -> bytes:
        with trio.fail_after(PATIENCE):
            self.heard = await self._stream.receive_some(100)
        return self.heard

    async def ask(self) -> bytes:
        """Say something on the open connection, and return the answer."""
        with trio.fail_after(PATIENCE):
            await self._stream.send_all(b"?")
        return await self.listen()

    async def close(self) -> None:
        await self._stream.aclose()


async def knock(listener: socket.socket) -> Client:
    """Connect, and wait for nothing."""
    return Client(await trio.open_tcp_stream(*listener.getsockname()))


async def visit(listener: socket.socket) -> Client:
    """Connect, and be greeted."""
    client = await knock(listener)
    await client.listen()
    return client


async def greeted_by(listener: socket.socket, times: int = 1) -> set[bytes]:
    """Who serves new connections."""
    names = set()
    for _ in range(times):
        client = await visit(listener)
        names.add(client.heard)
        await client.close()
    return names


def route(generation: int, endpoints: tuple[wire.Endpoint, ...], **policy: Any) -> wire.Route:
    return wire.Route(0, SERVICE, generation, endpoints, version=f"v{generation}", **policy)


async def happened(events: trio.MemoryReceiveChannel[dict[str, Any]], **values: Any) -> dict[str, Any]:
    """Wait for an event with these values."""
    with trio.fail_after(PATIENCE):
        async for event in events:
            if values.items() <= event.items():
                return event
    raise AssertionError("the stream ended")


async def until(condition: Callable[[], bool]) -> None:
    """For what another process does, and nobody tells."""
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(0.01)


def freeze(each: Worker) -> None:
    os.kill(each.pid, signal.SIGSTOP)


def thaw(each: Worker) -> None:
    os.kill(each.pid, signal.SIGCONT)
