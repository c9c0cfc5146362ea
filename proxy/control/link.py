"""Control's end of the connection to one worker: requests out, acknowledgements and counts in."""

from __future__ import annotations

import array
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from proxy import wire
from proxy.errors import WorkerVersionError

# Builds the request once its number is known.
Build = Callable[[int], wire.Message]


class LinkLostError(Exception):
    """The worker went away before it answered."""


@dataclass(eq=False)
class Pending:
    """A request on its way. `wait` gives the worker's answer, or raises LinkLostError."""

    on_ack: Callable[[wire.Ack], None] | None = None
    done: trio.Event = field(default_factory=trio.Event)
    ack: wire.Ack | None = None

    async def wait(self) -> wire.Ack:
        await self.done.wait()
        if self.ack is None:
            raise LinkLostError
        return self.ack


@dataclass(frozen=True)
class _Outgoing:
    payload: bytes
    descriptors: Sequence[int]
    given: socket.socket | None


class Link:
    """Requests are sent and answered in order; posting one never waits.

    `on_message` is called for what is not an answer (Hello, Remaining, Counts). It and the `on_ack`
    of a request run as messages arrive, before whoever waits for an answer: counts are seen in the worker's order.
    """

    def __init__(self, stream: trio.socket.SocketType, on_message: Callable[[wire.Message], None]) -> None:
        self._stream = stream
        self._on_message = on_message
        self._number = 0
        self._pending: dict[int, Pending] = {}
        self._outbox, self._outgoing = trio.open_memory_channel[_Outgoing](float("inf"))
        self.lost = False

    def post(
        self,
        build: Build,
        descriptors: Sequence[int] = (),
        on_ack: Callable[[wire.Ack], None] | None = None,
        *,
        given: socket.socket | None = None,
    ) -> Pending:
        """Put a request in line. The descriptors must stay open until it is answered; a socket that is `given` along
        is closed here as soon as it is sent.
        """
        pending = Pending(on_ack)
        if self.lost:
            pending.done.set()
            if given:
                given.close()
            return pending
        self._number += 1
        descriptors = [*descriptors, given.fileno()] if given else descriptors
        message = _Outgoing(wire.encode(build(self._number)), descriptors, given)
        self._pending[self._number] = pending
        self._outbox.send_nowait(message)
        return pending

    async def run(self) -> None:
        """Carry messages until the worker is gone; then `close`. Raises WireError if it does not make sense."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send)
                await self._receive()
                nursery.cancel_scope.cancel()
        finally:
            self.lost = True
            self._outbox.close()
            for message in self._left():
                if message.given:
                    message.given.close()
            for pending in self._pending.values():
                pending.done.set()
            self._pending.clear()

    def close(self) -> None:
        """Let go of the connection. A worker that still runs takes that as the end of control, and relays on."""
        self._stream.close()

    def _left(self) -> Iterator[_Outgoing]:
        """What was not sent."""
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                yield self._outgoing.receive_nowait()

    async def _send(self) -> None:
        async for message in self._outgoing:
            rights = array.array("i", message.descriptors).tobytes()
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
            try:
                await self._stream.sendmsg([message.payload], ancillary)
            except OSError:
                # Cut short here, it ends for the receiving side as well, and whoever waits for an answer is told.
                with suppress(OSError):
                    self._stream.shutdown(socket.SHUT_RDWR)
                return
            finally:
                if message.given:
                    message.given.close()

    async def _receive(self) -> None:
        while True:
            try:
                payload = await self._stream.recv(wire.MAX_MESSAGE)
            except OSError:
                return
            if not payload:
                return
            message = wire.decode(payload)
            if isinstance(message, wire.Hello) and message.version not in wire.READS:
                raise WorkerVersionError(message.pid, message.release, message.version, wire.READS)
            if not isinstance(message, wire.Ack):
                self._on_message(message)
            elif pending := self._pending.pop(message.seq, None):
                pending.ack = message
                if pending.on_ack:
                    pending.on_ack(message)
                pending.done.set()
