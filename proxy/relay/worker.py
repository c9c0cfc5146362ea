"""Everything one worker has, and what control may ask of it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import trio

from proxy import wire
from proxy.relay.acceptor import Gate
from proxy.relay.engine import Engine
from proxy.relay.link import Door
from proxy.relay.service import Service

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Sequence

    from proxy.relay.access_log import AccessLog
    from proxy.wire import Message, Request

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Worker:
    """The services by name, and the door for control. `capacity` is the number of connections that there can be."""

    def __init__(self, listener: socket.socket, capacity: int, access_log: AccessLog | None = None) -> None:
        self._access_log = access_log
        self._engine = Engine()
        self._gate = Gate(self._engine, capacity)
        self._door = Door(self._engine, listener, self)
        self._services: dict[str, Service] = {}

    async def run(self) -> None:
        """Relay until control says Exit, or SIGTERM arrives while there is no control."""
        with trio.open_signal_receiver(*SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed, signals)
                if self._access_log is not None:
                    nursery.start_soon(self._access_log.run)
                await self._engine.run()
                nursery.cancel_scope.cancel()
        for service in self._services.values():
            service.close()
        self._engine.sweep()

    async def _heed(self, signals: AsyncIterator[int]) -> None:
        """A process manager signals the whole group; while control is there, it decides when workers leave."""
        async for number in signals:
            if number == signal.SIGTERM and not self._door.is_connected:
                self._engine.stop()

    # What control may ask

    def serve(self, request: Request, descriptors: Sequence[int]) -> Sequence[Message]:
        match request:
            case wire.Listen():
                self._listen(request, descriptors)
            case wire.Route():
                connections = self._service(request.service).route(request)
                return [wire.Ack(request.seq, connections=connections)]
            case wire.Close():
                forced = self._service(request.service).close_generation(request.generation)
                return [wire.Ack(request.seq, forced=forced)]
            case wire.Forget():
                self._forget(request)
            case wire.Snapshot():
                counts = (part for service in self._services.values() for part in service.counts())
                return [*counts, wire.Ack(request.seq)]
            case wire.Exit():
                self._engine.stop()
            case _:
                raise ValueError(f"a worker does not serve {type(request).__name__}")
        return [wire.Ack(request.seq)]

    def control_lost(self) -> None:
        for service in self._services.values():
            service.release_held()

    def _listen(self, request: wire.Listen, descriptors: Sequence[int]) -> None:
        if len(descriptors) != len(request.add):
            raise ValueError(f"{len(request.add)} listeners were announced, {len(descriptors)} descriptors came")
        service = self._service(request.service)
        for address, fd in zip(request.add, descriptors, strict=True):
            service.listen(address, fd)
        for address in request.remove:
            service.unlisten(address)

    def _forget(self, request: wire.Forget) -> None:
        if request.generation:
            self._service(request.service).forget(request.generation)
        elif service := self._services.pop(request.service, None):
            service.close()

    def _service(self, name: str) -> Service:
        """Return the service of this name, a new one the first time."""
        if name not in self._services:
            self._services[name] = Service(name, self._engine, self._gate, self._announce, self._access_log)
        return self._services[name]

    def _announce(self, service: str, generation: int, connections: int) -> None:
        self._door.tell(wire.Remaining(service, generation, connections))
