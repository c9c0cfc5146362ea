"""Serve the API: Starlette's routes, Hypercorn's HTTP, our own sockets.

Hypercorn's own `serve` makes sockets inheritable, shields sends from cancellation, and ends the process when one
connection fails in an unforeseen way. So the part of it that knows HTTP, its handler for one connection, runs here on
sockets and in nurseries of ours.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from proxy.api.access import Access
from proxy.api.app import build
from proxy.api.connection import Connection, Connections
from proxy.api.http1 import Http1Server
from proxy.api.listeners import tcp_listener, unix_listener
from proxy.api.live import Live
from proxy.api.peer import Introduced, credentials
from proxy.api.tls import Certificate
from proxy.api.tokens import TokenFile
from proxy.errors import UsageError
from proxy.logs import facts

if TYPE_CHECKING:
    import socket as stdlib
    from collections.abc import Awaitable, Callable

    from hypercorn.typing import ASGIFramework
    from starlette.applications import Starlette

    from proxy.api.protocol import Control
    from proxy.config import Admin
    from proxy.core.address import Address

GRACE = 1.0  # seconds for requests under way once the end has come
HANDSHAKE = 10.0  # seconds for TLS to begin

log = logging.getLogger(__name__)


class _Served(NamedTuple):
    listener: stdlib.socket
    app: Starlette
    certificate: Certificate | None = None


async def serve(
    control: Control,
    *,
    admin: Admin,
    sockets: dict[str, stdlib.socket] | None = None,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on the control socket, and at `admin.listen` if it is set, until `shutdown` is set.

    `sockets` are listeners by address that are open already; when it has started, they are those that it has.

    At the end event streams stop at once, requests under way have `GRACE` seconds, and the socket file is removed.

    Raises AddressInUseError, UsageError or ProxyError, before it reports as started, if a socket cannot be had, or the
    files that `admin` names cannot be used.
    """
    context = WorkerContext(None)
    held = {} if sockets is None else sockets
    live = Live(control, samples=admin.listen is not None)
    with ExitStack() as stack:
        name = f"unix:{admin.socket}"
        control_socket = stack.enter_context(unix_listener(admin.socket, held.pop(name, None)))
        opened = {name: control_socket}
        served = [_Served(control_socket, build(control, live, shutdown))]
        if admin.listen:
            access, certificate = _access(admin, admin.listen)
            public = stack.enter_context(tcp_listener(admin.listen, held.pop(str(admin.listen), None)))
            opened[str(admin.listen)] = public
            served.append(_Served(public, build(control, live, shutdown, access), certificate))
        for unused in held.values():
            unused.close()
        held.clear()
        held.update(opened)

        async with trio.open_nursery() as outer:
            outer.start_soon(live.run)
            async with trio.open_nursery() as nursery:
                connections = Connections(nursery)
                outer.start_soon(connections.break_off, shutdown, GRACE)
                async with trio.open_nursery() as accepting:
                    for each in served:
                        handle = _handler(each.app, context, is_unix=each.listener is control_socket)
                        accepting.start_soon(
                            connections.accept, _stream_listener(each.listener), handle, each.certificate
                        )
                    task_status.started()
                    await shutdown.wait()
                    accepting.cancel_scope.cancel()
                stack.close()
                await context.terminated.set()  # idle connections close at once
            outer.cancel_scope.cancel()


def _stream_listener(listener: stdlib.socket) -> trio.SocketListener:
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


def _access(admin: Admin, listen: Address) -> tuple[Access, Certificate | None]:
    """What it takes to use the TCP listener. Raises UsageError."""
    tokens = TokenFile(admin.token_file) if admin.token_file else None
    if tokens is None and not listen.is_loopback:
        raise UsageError(
            f"admin.listen = {listen} can be reached from other machines, which takes a token_file",
            hint="`proxyctl check` says how to make one",
        )
    certificate = Certificate(admin.tls_cert, admin.tls_key) if admin.tls_cert and admin.tls_key else None
    if certificate is None and not listen.is_loopback:
        log.warning(
            "the admin address is reached without TLS: whoever is on the way can read the tokens, and use them",
            extra=facts(listen=listen, hint="set admin.tls_cert and tls_key"),
        )
    access = Access(
        tokens=tokens,
        metrics_open=admin.metrics == "open",
        allow_commands=admin.allow_commands,
        is_secure=certificate is not None,
        cookie=f"{'__Host-' if certificate else ''}proxyctl-{listen.port}",
    )
    return access, certificate


def _handler(app: Starlette, context: WorkerContext, *, is_unix: bool) -> Callable[[Connection], Awaitable[None]]:
    config, state = _config(), ConnectionState({})

    async def handle(connection: Connection) -> None:
        known = Introduced(app, *credentials(connection.socket)) if is_unix else app
        wrapped = ASGIWrapper(cast("ASGIFramework", known))
        await Http1Server(wrapped, config, context, state, connection)

    return handle


def _config() -> Config:
    config = Config()
    config.ssl_handshake_timeout = HANDSHAKE
    config.errorlog = logging.getLogger("hypercorn.error")  # as it is: Hypercorn would give it a handler of its own
    config.accesslog = None
    config.include_server_header = False
    return config
