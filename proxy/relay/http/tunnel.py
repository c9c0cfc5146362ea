"""The end of HTTP: from here on nobody looks at the bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.relay.connection import Connection

if TYPE_CHECKING:
    from proxy.relay.http.client import HttpClient
    from proxy.relay.http.upstream import Upstream


def open_tunnel(client: HttpClient, upstream: Upstream, to_client: bytes, to_backend: bytes) -> None:
    """Let a connection take over both sockets, with what is still to be sent. `to_backend` is not counted yet."""
    generation = upstream.generation
    connection = Connection(client.service, generation, upstream.endpoint, client.sock, upstream.sock, client.accepted)
    connection.client.watches_out, connection.client.reads_on = client.watches_out, client.reads_on
    connection.backend.watches_out, connection.backend.reads_on = upstream.watches_out, upstream.reads_on
    to_client = bytes(client.pending) + to_client
    # What is handed over is counted as unsent there.
    generation.downstream.unsent -= len(to_client)
    generation.upstream.received += len(to_backend)
    generation.upstream.unsent -= len(upstream.pending)
    to_backend = bytes(upstream.pending) + to_backend
    upstream.release()
    generation.members.remove(client)
    connection.resume(to_client, to_backend)
