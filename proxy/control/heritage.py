"""What a backend is given with datapath "inherit": the public listeners, and a socket to say READY=1 to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.control import notify_socket
from proxy.core import template
from proxy.core.address import Address

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from proxy.config.settings import Version
    from proxy.control.readiness import Readiness
    from proxy.control.record import Record


@dataclass(frozen=True)
class Heritage:
    """`addresses` are those of the listeners, as far as they are known; `has_own_endpoint`: the backend has a private
    port or socket too.
    """

    readiness: Readiness
    addresses: tuple[Address, ...]
    has_own_endpoint: bool


def recall(record: Record, version: Version, state_dir: Path) -> Heritage | None:
    """What an earlier control process gave to a backend, as its record and $NOTIFY_SOCKET tell; None: nothing."""
    wanted = template.names((*version.command, *version.env.values()))
    has_own_endpoint = record.port is not None or "socket" in wanted
    readiness = notify_socket.take_over(state_dir, record.mark)
    if readiness is None:
        if has_own_endpoint:
            return None
        readiness = notify_socket.lost(state_dir, record.mark)
    addresses = () if has_own_endpoint else (Address.parse(record.address),)
    return Heritage(readiness, addresses, has_own_endpoint)


def address(listener: socket.socket) -> Address:
    """Where it listens."""
    name = listener.getsockname()
    return Address(path=name) if isinstance(name, str) else Address(host=name[0], port=name[1])
