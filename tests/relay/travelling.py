"""`python -P -m tests.relay.travelling`: a worker whose HTTP clients are packed and unpacked all the time.

After each pass of its loop, about every second one is given up and taken back, as in a handover that fails. Nobody else
may see a difference.
"""

from __future__ import annotations

import _socket
import os
import random
import weakref
from typing import TYPE_CHECKING, Any

from proxy.relay import __main__, worker
from proxy.relay.engine import Engine
from proxy.relay.http import client, search
from proxy.relay.http.parcel import check, pack, unpack
from proxy.relay.parcel import Parcel
from proxy.relay.service import Service
from tests.states import through_json

if TYPE_CHECKING:
    from proxy.relay.http.client import HttpClient


def carried(parcel: Parcel) -> Parcel:
    """What a parcel is in another process: other descriptors for the same sockets (unix(7), SCM_RIGHTS)."""
    sockets = tuple(_socket.socket(fileno=os.dup(sock.fileno())) for sock in parcel.sockets)
    for sock in parcel.sockets:
        sock.close()
    return Parcel(parcel.kind, parcel.service, through_json(parcel.state), sockets)


def travel(traveller: HttpClient, service: Service) -> None:
    parcel = carried(pack(traveller))
    check(parcel)
    unpack(service, parcel)


class TravellingEngine(Engine):
    def __init__(self) -> None:
        super().__init__()
        self._dice = random.Random(0)
        self.services: weakref.WeakSet[TravellingService] = weakref.WeakSet()

    def _pass(self) -> bool:
        is_busy = super()._pass()
        if is_busy:
            for service in self.services:
                for each in list(service.http_clients):
                    if self._dice.random() < 0.5:
                        travel(each, service)
        return is_busy


class TravellingService(Service):
    def __init__(self, name: str, engine: TravellingEngine, *others: Any, **named: Any) -> None:
        super().__init__(name, engine, *others, **named)
        engine.services.add(self)


if __name__ == "__main__":
    client.MOMENT = search.MOMENT = 0.0  # else nothing would ever be late
    worker.Engine = TravellingEngine  # type: ignore[misc]
    worker.Service = TravellingService  # type: ignore[misc,assignment]
    __main__.main()
