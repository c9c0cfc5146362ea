"""Connections to the API, with the bounds that Hypercorn does not have: how many, and for how long a send may hang."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from typing import TYPE_CHECKING

import trio

from proxy.api.site import site_of
from proxy.logs import facts

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from proxy.api.tls import Certificate

STALL = 300.0  # seconds that one piece of a response may take; long enough for `proxyctl logs v1 | less`
LIMIT = 256  # connections on one listener; more wait in its queue
EACH = 64  # of them from one place (site.py) that is not this machine
_PAUSE = 1.0  # seconds

log = logging.getLogger(__name__)


class Connection:
    """A stream for Hypercorn whose sends end: after `STALL` seconds without room, or when `close` is called.

    Hypercorn shields its sends from cancellation, so that a client which has stopped reading would hold up the end of
    the process for as long as it likes. Closing the socket under the send is what breaks it off.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = stream
        self.socket = stream.socket

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(STALL) as scope:
            try:
                await self._stream.send_all(data)
            except trio.BusyResourceError as error:  # Hypercorn says that nothing more comes, without its own lock
                raise trio.BrokenResourceError("it is being closed") from error
        if scope.cancelled_caught:
            self.close()
            raise trio.BrokenResourceError("the client does not read")

    async def receive_some(self, limit: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(limit)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def close(self) -> None:
        self.socket.close()


class PlainConnection(Connection):
    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.SocketStream):
            await self._stream.send_eof()


class TlsConnection(Connection):
    """It shakes hands first."""

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext) -> None:
        super().__init__(stream)
        self._tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        self._stream = self._tls

    async def do_handshake(self) -> None:
        await self._tls.do_handshake()


class _Places:
    """How many connections there may be: in all, and from one site that is not this machine."""

    def __init__(self) -> None:
        self._all = trio.Semaphore(LIMIT)
        self._by_site: Counter[str] = Counter()

    async def one_more(self) -> None:
        """Wait until there may be another."""
        await self._all.acquire()

    def take(self, site: str) -> bool:
        """Whether one that has come may stay."""
        if site and self._by_site[site] >= EACH:
            return False
        self._by_site[site] += 1
        return True

    def leave(self, site: str | None = None) -> None:
        """`site` None: it had not come yet."""
        self._all.release()
        if site is not None:
            self._by_site[site] -= 1
            if not self._by_site[site]:
                del self._by_site[site]


class Connections:
    """All that are open. What goes wrong in one is logged, and ends that one alone."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._open: set[Connection] = set()

    async def accept(
        self,
        listener: trio.SocketListener,
        serve: Callable[[Connection], Awaitable[None]],
        certificate: Certificate | None = None,
    ) -> None:
        """Accept until cancelled; with a certificate, TLS."""
        places = _Places()
        while True:
            await places.one_more()
            try:
                stream = await listener.accept()
            except OSError as error:  # no descriptors or no memory (accept(2)), and no event says when there are again
                places.leave()
                log.warning("the API cannot accept", extra=facts(reason=error.strerror))
                await trio.sleep(_PAUSE)
                continue
            site = site_of(_peer(stream))
            if places.take(site):
                connection = TlsConnection(stream, certificate.context) if certificate else PlainConnection(stream)
                self._nursery.start_soon(self._run, connection, serve, places, site)
            else:
                stream.socket.close()
                places.leave()

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
        self, connection: Connection, serve: Callable[[Connection], Awaitable[None]], places: _Places, site: str
    ) -> None:
        self._open.add(connection)
        try:
            await serve(connection)
        except Exception:
            log.exception("a connection to the API failed")
        finally:
            self._open.discard(connection)
            connection.close()
            places.leave(site)


def _peer(stream: trio.SocketStream) -> str:
    """The address at the other end; empty for a Unix socket, and where it has gone again."""
    if stream.socket.family == socket.AF_UNIX:
        return ""
    try:
        address: str = stream.socket.getpeername()[0]
    except OSError:
        return ""
    return address
