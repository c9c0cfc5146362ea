"""Hypercorn's handler of one connection, with HTTP/1 alone.

By itself it changes over to HTTP/2 or to websockets for whoever asks, also without TLS. Nothing here speaks either, and
a client that has changed over and then does nothing would never be let go: a few of these would keep everybody out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import h11
import trio
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from proxy.api.connection import TlsConnection

if TYPE_CHECKING:
    from hypercorn.config import Config
    from hypercorn.typing import AppWrapper, LifespanState, WorkerContext

    from proxy.api.connection import Connection


class Http1Server(TCPServer):
    """Awaited, it serves one connection to its end."""

    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, state: LifespanState, connection: Connection
    ) -> None:
        super().__init__(app, config, cast("Any", context), state, cast("Any", connection))
        self._connection = connection

    async def run(self) -> None:
        """What Hypercorn does, without a choice of protocols."""
        connection, is_tls = self._connection, isinstance(self._connection, TlsConnection)
        if isinstance(connection, TlsConnection) and not await self._shakes_hands(connection):
            return
        try:
            family = connection.socket.family
            client = parse_socket_addr(family, connection.socket.getpeername())
            server = parse_socket_addr(family, connection.socket.getsockname())
            async with TaskGroup() as self._task_group:
                state, send = ConnectionState(self.state), self.protocol_send
                arguments = (self.app, self.config, self.context, self._task_group, state, is_tls, client, server, send)
                self.protocol = cast("Any", _Http1(*cast("Any", arguments)))
                await self.idle_task.restart(cast("Any", self._task_group), self._idle_timeout)
                await self._read_data()
        except OSError:  # the client has gone again
            pass
        finally:
            await self._close()

    async def _shakes_hands(self, connection: TlsConnection) -> bool:
        try:
            with trio.fail_after(self.config.ssl_handshake_timeout):
                await connection.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError):
            return False
        return True


class _Http1(H11Protocol):
    async def _check_protocol(self, event: h11.Request) -> None:
        """HTTP/2 is not spoken; whoever asks for it has an answer in HTTP/1, as RFC 9110, section 7.8, allows."""

    async def _create_stream(self, request: h11.Request) -> None:
        """Nor are websockets."""
        kept = [(name, value) for name, value in request.headers.raw_items() if name.lower() != b"upgrade"]
        await super()._create_stream(
            h11.Request(method=request.method, target=request.target, headers=kept, http_version=request.http_version)
        )
