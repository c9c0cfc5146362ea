"""A connection on its way from one worker to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import _socket

# Seconds after an arrival in which no deadline of the connection ends: what came on the way is to be seen first.
MOMENT = 1.0


@dataclass(slots=True)
class Parcel:
    """A connection on its way between two workers, or back to where it was: no event, timer or count refers to it."""

    kind: str  # "tcp": a client and its backend; "client": one that has no backend yet; "http"
    service: str
    state: dict[str, Any]  # JSON values, and bytes
    sockets: tuple[_socket.socket, ...]  # the client's first
