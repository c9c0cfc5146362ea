"""Connections to the API, with the bounds that Hypercorn does not have: how many, and for how long a send may hang."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

STALL = 300.0  # seconds that one piece of a response may take; long enough for `proxyctl logs v1 | less`
LIMIT = 128  # connections on one listener; more wait in its queue
_PAUSE = 1.0  # seconds

log = logging.getLogger(__name__)


class Connection:
    """A stream for Hypercorn whose sends end: after `STALL` seconds without room, or when `close` is called.

    Hypercorn shields its sends from cancellation, so that a client which has stopped reading would hold up the end of
    the process for as long as it likes. Closing the socket under the send is what breaks it off.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(STALL) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            self.close()
            raise trio.BrokenResourceError("the client does not read")

    async def receive_some(self, limit: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(limit)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def close(self) -> None:
        self.socket.close()


class Connections:
    """All that are open. What goes wrong in one is logged, and ends that one alone."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._open: set[Connection] = set()

    async def accept(self, listener: trio.SocketListener, serve: Callable[[Connection], Awaitable[None]]) -> None:
        """Accept until cancelled."""
        places = trio.Semaphore(LIMIT)
        while True:
            await places.acquire()
            try:
                stream = await listener.accept()
            except OSError as error:  # no descriptors or no memory (accept(2)), and no event says when there are again
                places.release()
                log.warning("the API cannot accept", extra=facts(reason=error.strerror))
                await trio.sleep(_PAUSE)
            else:
                self._nursery.start_soon(self._run, Connection(stream), serve, places)

    async def break_off(self, end: trio.Event, grace: float) -> None:
        """Close what is still open `grace` seconds after `end`, or at once when this is cancelled."""
        try:
            await end.wait()
            await trio.sleep(grace)
        finally:
            for connection in self._open:
                connection.close()
            self._nursery.cancel_scope.cancel()

    async def _run(
        self, connection: Connection, serve: Callable[[Connection], Awaitable[None]], places: trio.Semaphore
    ) -> None:
        self._open.add(connection)
        try:
            await serve(connection)
        except Exception:
            log.exception("a connection to the API failed")
        finally:
            self._open.discard(connection)
            connection.close()
            places.release()
