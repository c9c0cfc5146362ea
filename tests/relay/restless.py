"""`python -P -m tests.relay.restless`: a worker whose connections are packed and unpacked all the time.

After each pass of its loop, about every second one is given up and taken back, as in a handover that fails. Nobody at
either end may see a difference.
"""

from __future__ import annotations

import random
import weakref
from typing import Any

from proxy.relay import __main__, client, connection, packing, worker
from proxy.relay.engine import Engine
from proxy.relay.service import Service
from tests.relay.travelling import carried


class RestlessEngine(Engine):
    def __init__(self) -> None:
        super().__init__()
        self._dice = random.Random(0)
        self.services: weakref.WeakSet[RestlessService] = weakref.WeakSet()

    def _pass(self) -> bool:
        is_busy = super()._pass()
        if is_busy:
            services = {service.name: service for service in self.services}
            for each in packing.movables(services.values()):
                if self._dice.random() < 0.5 and packing.is_there(each):
                    parcel = carried(packing.pack(each))
                    packing.check(services, parcel)
                    packing.unpack(services, parcel)
        return is_busy


class RestlessService(Service):
    def __init__(self, name: str, engine: RestlessEngine, *others: Any, **named: Any) -> None:
        super().__init__(name, engine, *others, **named)
        engine.services.add(self)


if __name__ == "__main__":
    client.MOMENT = connection.MOMENT = 0.0  # else nothing would ever be late
    worker.Engine = RestlessEngine  # type: ignore[misc]
    worker.Service = RestlessService  # type: ignore[misc,assignment]
    __main__.main()
