"""What the public listeners have in common, whoever bound them; the sockets they accept inherit it (tcp(7))."""

from __future__ import annotations

import socket

# The kernel caps it at net.core.somaxconn (listen(2)).
BACKLOG = 65535

# Keep-alive on the client's side finds peers that vanished without a word.
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_PROBES = 60, 15, 4


def prepare(listener: socket.socket) -> None:
    """Set them, before or after it is bound. Nothing is needed on a Unix socket."""
    if listener.family == socket.AF_UNIX:
        return
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
