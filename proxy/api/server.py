"""Serve the API: Starlette's routes, Hypercorn's HTTP, our own sockets.

Hypercorn's own `serve` makes sockets inheritable, shields sends from cancellation, and ends the process when one
connection fails in an unforeseen way. So the part of it that knows HTTP, its handler for one connection, runs here on
sockets and in nurseries of ours.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from proxy.api.app import build
from proxy.api.connection import Connection, Connections
from proxy.api.listeners import tcp_listener, unix_listener

if TYPE_CHECKING:
    import socket as stdlib
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import Any

    from hypercorn.typing import ASGIFramework
    from starlette.applications import Starlette

    from proxy.api.protocol import Control
    from proxy.core.address import Address

GRACE = 1.0  # seconds for requests under way once the end has come


async def serve(
    control: Control,
    *,
    socket: Path,
    listen: Address | None = None,
    sockets: dict[str, stdlib.socket] | None = None,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on the Unix socket, and on `listen` (TCP, loopback) if it is given, until `shutdown` is set.

    `sockets` are listeners by address that are open already; when it has started, they are those that it has.

    At the end event streams stop at once, requests under way have `GRACE` seconds, and the socket file is removed.

    Raises AddressInUseError, UsageError or ProxyError, before it reports as started, if a socket cannot be had.
    """
    context = WorkerContext(None)
    held = {} if sockets is None else sockets
    with ExitStack() as stack:
        control_socket = stack.enter_context(unix_listener(socket, held.pop(f"unix:{socket}", None)))
        opened = {f"unix:{socket}": control_socket}
        listeners = [(control_socket, build(control, shutdown, tcp=False))]
        if listen is not None:
            opened[str(listen)] = stack.enter_context(tcp_listener(listen, held.pop(str(listen), None)))
            listeners.append((opened[str(listen)], build(control, shutdown, tcp=True)))
        for unused in held.values():
            unused.close()
        held.clear()
        held.update(opened)

        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as nursery:
                connections = Connections(nursery)
                outer.start_soon(connections.break_off, shutdown, GRACE)
                async with trio.open_nursery() as accepting:
                    for listener, app in listeners:
                        accepting.start_soon(connections.accept, _stream_listener(listener), _handler(app, context))
                    task_status.started()
                    await shutdown.wait()
                    accepting.cancel_scope.cancel()
                stack.close()
                await context.terminated.set()  # idle connections close at once
            outer.cancel_scope.cancel()


def _stream_listener(listener: stdlib.socket) -> trio.SocketListener:
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


def _handler(app: Starlette, context: WorkerContext) -> Callable[[Connection], Awaitable[None]]:
    wrapped, config, state = ASGIWrapper(cast("ASGIFramework", app)), _config(), ConnectionState({})

    async def handle(connection: Connection) -> None:
        await TCPServer(wrapped, config, context, state, cast("Any", connection))

    return handle


def _config() -> Config:
    config = Config()
    config.errorlog = logging.getLogger("hypercorn.error")  # as it is: Hypercorn would give it a handler of its own
    config.accesslog = None
    config.include_server_header = False
    return config
