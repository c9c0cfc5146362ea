"""Everything one worker has, and what control may ask of it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import trio

from proxy import wire
from proxy.relay.acceptor import Gate
from proxy.relay.engine import Engine
from proxy.relay.handover import Giver, Taker
from proxy.relay.link import Door
from proxy.relay.service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from proxy.relay.access_log import AccessLog
    from proxy.relay.link import Reply
    from proxy.relay.timers import Timer
    from proxy.wire import Request

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
NEEDED = 60.0  # seconds without control, after which a worker that serves nobody leaves


class Worker:
    """The services by name, and the door for control. `capacity` is the number of connections that there can be."""

    def __init__(self, listener: socket.socket, capacity: int, access_log: AccessLog | None = None) -> None:
        self._access_log = access_log
        self._engine = Engine()
        self._gate = Gate(self._engine, capacity)
        self._door = Door(self._engine, listener, self)
        self._services: dict[str, Service] = {}
        self._giver: Giver | None = None  # since a Handover, also when it is through
        self._takers: set[Taker] = set()
        self._leaving: Timer | None = None
        self._consider_leaving()

    async def run(self) -> None:
        """Relay until control says Exit, or SIGTERM arrives while there is no control."""
        self._gate.keep_looking()
        with trio.open_signal_receiver(*SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed, signals)
                if self._access_log is not None:
                    nursery.start_soon(self._access_log.run)
                await self._engine.run()
                nursery.cancel_scope.cancel()
        for end in (self._giver, *self._takers):
            if end is not None:
                end.close()
        for service in self._services.values():
            service.close()
        self._engine.sweep()
        self._door.close()

    async def _heed(self, signals: AsyncIterator[int]) -> None:
        """A process manager signals the whole group; while control is there, it decides when workers leave."""
        async for number in signals:
            if number == signal.SIGTERM and not self._door.is_connected:
                self._engine.stop()

    # What control may ask

    def serve(self, request: Request, descriptors: Sequence[int], reply: Reply) -> None:
        match request:
            case wire.Handover():
                self._hand_over(_channel(descriptors), request.seq, reply)
            case wire.TakeOver():
                self._take_over(_channel(descriptors), request.seq, reply)
            case wire.Describe():
                for service in self._services.values():
                    _describe(service, reply)
                reply(wire.Ack(request.seq))
            case wire.Snapshot():
                for service in self._services.values():
                    for part in service.counts():
                        reply(part)
                reply(wire.Ack(request.seq))
            case _:
                reply(self._carry_out(request, descriptors))

    def _carry_out(self, request: Request, descriptors: Sequence[int]) -> wire.Ack:
        match request:
            case wire.Listen():
                self._listen(request, descriptors)
            case wire.Route():
                connections = self._service(request.service).route(request)
                return wire.Ack(request.seq, connections=connections)
            case wire.Hold():
                self._hold(request, descriptors)
            case wire.Close():
                forced = self._service(request.service).close_generation(request.generation)
                return wire.Ack(request.seq, forced=forced)
            case wire.Forget():
                self._forget(request)
            case wire.Exit():
                self._engine.stop()
            case _:
                raise ValueError(f"a worker does not serve {type(request).__name__}")
        return wire.Ack(request.seq)

    def control_lost(self) -> None:
        for service in self._services.values():
            service.control_lost()
        if self._giver is not None:
            self._giver.control_lost()
        self._consider_leaving()

    def _consider_leaving(self) -> None:
        """Leave after a while in which no control comes, unless somebody is served."""
        if self._leaving is not None:
            self._leaving.cancel()
        self._leaving = self._engine.at(time.monotonic() + NEEDED, self._leave)

    def _leave(self) -> None:
        """Nobody needs a worker that has no connections, no listeners, and no control that would give it any."""
        self._leaving = None
        if self._door.is_connected or any(service.listeners for service in self._services.values()):
            return
        if self._gate.clients or self._takers:
            self._consider_leaving()
        else:
            log.info("leaving: nobody is served, and there is no control")
            self._engine.stop()

    def _listen(self, request: wire.Listen, descriptors: Sequence[int]) -> None:
        if len(descriptors) != len(request.add):
            raise ValueError(f"{len(request.add)} listeners were announced, {len(descriptors)} descriptors came")
        service = self._service(request.service)
        if request.add:
            self._accept_again()
        for address, fd in zip(request.add, descriptors, strict=True):
            service.listen(address, fd, accept=request.accept)
        for address in request.remove:
            service.unlisten(address)

    def _hold(self, request: wire.Hold, descriptors: Sequence[int]) -> None:
        if len(descriptors) != 1:
            raise ValueError(f"one descriptor says whether to switch, {len(descriptors)} came")
        self._service(request.service).hold(request.then, descriptors[0])

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

    # Handing connections over

    def _hand_over(self, channel: socket.socket, seq: int, reply: Reply) -> None:
        if self._takers or (self._giver is not None and not self._giver.is_over):
            channel.close()
            raise ValueError("connections are being handed over already")
        self._giver = Giver(
            self._engine,
            channel,
            self._services,
            self._gate,
            lambda carried, error: reply(wire.Ack(seq, carried=carried, error=error)),
        )

    def _take_over(self, channel: socket.socket, seq: int, reply: Reply) -> None:
        if self._giver is not None and not self._giver.is_over:
            channel.close()
            raise ValueError("connections are being handed over the other way")
        self._accept_again()

        def ended(carried: int, pause: float, error: str) -> None:
            self._takers.discard(taker)
            reply(wire.Ack(seq, carried=carried, pause=pause, error=error))

        taker = Taker(self._engine, channel, self._services, self._gate, ended)
        self._takers.add(taker)

    def _accept_again(self) -> None:
        """A worker that has given all away is of use again."""
        if self._giver is not None and self._giver.is_over:
            self._giver = None
            self._gate.reopen()

    def _announce(self, service: str, generation: int, connections: int) -> None:
        if self._giver is not None and self._giver.is_giving:
            return  # what is on the way is neither here nor there
        self._door.tell(wire.Remaining(service, generation, connections))


def _channel(descriptors: Sequence[int]) -> socket.socket:
    """Return a socket of our own for the one that was lent."""
    if len(descriptors) != 1:
        raise ValueError(f"one end of a socket is to come, {len(descriptors)} came")
    return socket.socket(fileno=os.dup(descriptors[0]))


def _describe(service: Service, reply: Reply) -> None:
    """Send what a service does, in as many parts as its listeners take."""
    listeners = service.listeners
    addresses = tuple(listeners)
    connections = {number: len(each.members) for number, each in service.generations.items() if each.members}
    for start in range(0, len(addresses) or 1, wire.MAX_FDS):
        part = addresses[start : start + wire.MAX_FDS]
        serving = wire.Serving(service.name, service.policy, part, connections, accept=service.accepts)
        reply(serving, [listeners[address] for address in part])
