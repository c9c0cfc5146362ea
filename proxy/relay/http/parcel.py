"""An HTTP client on its way from one worker to another, or back to where it was.

All of it travels, in every state: what was read and not sent yet, where in a head or a body either side is, what is in
flight, the timers. Only a search for a backend is given up, and begun anew by whoever takes the client. What its state
is made of, each class says for itself (`state`, `restore`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.core.http.messages import Requests, Responses
from proxy.relay.http.client import HttpClient
from proxy.relay.http.exchange import Exchange
from proxy.relay.http.reader import NAMES
from proxy.relay.parcel import Parcel

if TYPE_CHECKING:
    from proxy.relay.service import Service


def pack(client: HttpClient) -> Parcel:
    """Take a client that is not closed out of its service. Its sockets stay open, and nothing here refers to them."""
    upstream = client.upstream
    sockets = (client.sock,) if upstream is None else (client.sock, upstream.sock)
    parcel = Parcel("http", client.service.name, client.state(), sockets)
    client.detach()
    return parcel


def unpack(service: Service, parcel: Parcel) -> None:
    """Let a client go on in this service. It is closed after an error, which is logged and counted, not raised."""
    client, *backend = parcel.sockets
    HttpClient(service, client, None).take_up(parcel.state, backend[0] if backend else None)


def check(parcel: Parcel) -> None:
    """Raise ValueError for what `unpack` would not understand; nothing is touched."""
    state = parcel.state
    try:
        if state["state"] not in NAMES:
            raise ValueError(f"not a state of a client: {state['state']!r}")
        requests = Requests()
        requests.restore(state["requests"])
        Exchange().restore(state["exchange"], requests.head)
        upstream = state["upstream"]
        if len(parcel.sockets) != (1 if upstream is None else 2):
            raise ValueError(f"{len(parcel.sockets)} sockets")
        if upstream is not None:
            Responses().restore(upstream["responses"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the state of a client: {error!r}") from error
