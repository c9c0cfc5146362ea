"""What can be packed, and who packs and unpacks it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from proxy.logs import facts
from proxy.relay.client import Client
from proxy.relay.connection import Connection, reset_on_close
from proxy.relay.http import parcel as http
from proxy.relay.http.client import HttpClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from proxy.relay.parcel import Parcel
    from proxy.relay.service import Service

log = logging.getLogger(__name__)

Movable = Connection | Client | HttpClient

_CHECK: Mapping[str, Callable[[Parcel], None]] = {"tcp": Connection.check, "client": Client.check, "http": http.check}
_UNPACK: Mapping[str, Callable[[Service, Parcel], None]] = {
    "tcp": Connection.unpack,
    "client": Client.unpack,
    "http": http.unpack,
}


def movables(services: Iterable[Service]) -> list[Movable]:
    """Everything that can be packed; what has been silent for longest comes first."""
    return sorted((each for service in services for each in _movables(service)), key=lambda each: each.last)


def _movables(service: Service) -> Iterator[Movable]:
    for generation in service.generations.values():
        yield from (member for member in generation.members if isinstance(member, Connection | Client))
    yield from (seeker for seeker in service.waiting if isinstance(seeker, Client))
    yield from service.http_clients


def is_there(movable: Movable) -> bool:
    """Whether it was neither closed nor packed, and has not become something else."""
    if isinstance(movable, Connection):
        return movable in movable.generation.members
    if isinstance(movable, Client):
        return movable.is_seeking
    return movable in movable.service.http_clients


def client_of(movable: Movable) -> int:
    """The descriptor of the client's socket, of what is still there."""
    return movable.client.fd if isinstance(movable, Connection) else movable.fd


def pack(movable: Movable) -> Parcel:
    """Take a connection out of its service; nothing of it is closed."""
    return http.pack(movable) if isinstance(movable, HttpClient) else movable.pack()


def check(services: Mapping[str, Service], parcel: Parcel) -> None:
    """Raise ValueError, KeyError or TypeError for what `unpack` would not understand; nothing is touched."""
    if parcel.service not in services:
        raise ValueError(f"a service that is not known: {parcel.service!r}")
    _CHECK[parcel.kind](parcel)


def unpack(services: Mapping[str, Service], parcel: Parcel) -> None:
    """Make a connection live. One that cannot be is closed; that is logged and counted, not raised."""
    service = services.get(parcel.service)
    try:
        if service is None:
            raise ValueError("the service is gone")
        _UNPACK[parcel.kind](service, parcel)
    except Exception as error:
        log.exception("a connection could not go on", exc_info=error, extra=facts(service=parcel.service))
        if service is not None:
            service.refuse("internal")
        for sock in parcel.sockets:
            reset_on_close(sock)
            sock.close()
