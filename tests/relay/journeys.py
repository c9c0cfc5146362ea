"""Two workers' insides in one process, HTTP clients that travel between them, and the ends of their connections."""

from __future__ import annotations

import _socket
import contextlib
import re
import select
import socket
import tempfile
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from proxy import wire
from proxy.relay.acceptor import Gate
from proxy.relay.engine import Engine
from proxy.relay.http.parcel import check, pack, unpack
from proxy.relay.service import Service
from tests.relay.harness import Listener
from tests.relay.travelling import carried

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.relay.http.client import HttpClient
    from proxy.relay.parcel import Parcel

QUIET = 10  # milliseconds in which what was sent over TCP arrives
SMALL = 16 * 1024  # bytes of a socket's buffer
HTTP = wire.Http(forwarded="off")
_DATE = re.compile(rb"Date: [^\r]*")


class Impatient(Engine):
    """Does not wait for what is not there yet."""

    def _patience(self) -> float:
        return 0.0


class Place:
    """What a worker has."""

    def __init__(self) -> None:
        self.engine = Impatient()
        self.gate = Gate(self.engine, 1000)
        self.announced: list[tuple[str, int, int]] = []
        self.service = Service("web", self.engine, self.gate, lambda *said: self.announced.append(said))

    @property
    def clients(self) -> list[HttpClient]:
        return list(self.service.http_clients)

    def is_empty(self) -> bool:
        """Whether nothing is left of any connection."""
        generations = self.service.generations.values()
        endpoints = [each for generation in generations for each in generation._endpoints.values()]
        return not (
            self.clients
            or self.gate.clients
            or self.service._clients
            or self.service.waiting
            or self.engine._handlers
            or len(self.engine._timers)
            or any(generation.members for generation in generations)
            or any(endpoint.connections or endpoint.in_flight for endpoint in endpoints)
        )

    def close(self) -> None:
        self.service.close()
        self.engine.sweep()
        self.engine._epoll.close()


class Totals(NamedTuple):
    """What both have counted: bytes each way, what of it is unsent, and answers by status."""

    upstream: int
    downstream: int
    unsent: tuple[int, int]
    answered: dict[int, int]


class Peer:
    """One end of a connection: what it is to say is said when there is room, what it hears is read when it may."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.to_say = b""
        self.heard = b""
        self.has_ended = False  # it hears nothing any more
        self.was_reset = False
        self.listens = True

    def move(self) -> bool:
        """Say and hear what is possible; return whether that was anything."""
        before = len(self.to_say), len(self.heard), self.has_ended
        with contextlib.suppress(BlockingIOError):
            try:
                while self.to_say:
                    self.to_say = self.to_say[self.sock.send(self.to_say) :]
            except (BrokenPipeError, ConnectionResetError):
                self.to_say = b""
        with contextlib.suppress(BlockingIOError):
            try:
                while self.listens and not self.has_ended:
                    data = self.sock.recv(1 << 20)
                    self.heard += data
                    self.has_ended = not data
            except ConnectionResetError:
                self.has_ended = self.was_reset = True
        return before != (len(self.to_say), len(self.heard), self.has_ended)


class Journey:
    """A client in one of two places, a backend, and what they say to each other."""

    def __init__(self, kind: str = "unix", **policy: Any) -> None:
        """Unix sockets take no time; over TCP ("ipv4") one has to wait, and cannot say for how long."""
        self._folder = tempfile.TemporaryDirectory()
        self._quiet = 0 if kind == "unix" else QUIET
        where = ("127.0.0.1:0",) * 2 if kind == "ipv4" else [f"unix:{self._folder.name}/{name}" for name in "ab"]
        self.places = [Place(), Place()]
        self.here = 0
        self.listener, self.public = (Listener(address) for address in where)
        self.listener.sock.setblocking(False)
        self.listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        self.servers: list[Peer] = []
        self.travelled: Counter[str] = Counter()
        self._generation = 1
        self._policy = {"http": HTTP, **policy}
        self.route()
        self.client = self.connect()

    @property
    def place(self) -> Place:
        return self.places[self.here]

    def route(self, *, generation: int = 1, paused: bool = False, places: Iterable[int] = (0, 1)) -> None:
        self._generation = generation
        endpoints = (wire.Endpoint(0, self.listener.address),) if generation else ()
        policy = wire.Route(0, "web", generation, endpoints, paused=paused, **self._policy)
        for number in places:
            self.places[number].service.route(policy)

    def connect(self) -> Peer:
        """A client's connection to where the client is at home now."""
        sock = socket.socket(self.public.sock.family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        sock.connect(self.public.sock.getsockname())
        accepted, address = self.public.sock.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        self.place.service.admit(_socket.socket(fileno=accepted.detach()), address)
        return Peer(sock)

    def settle(self) -> None:
        """Until nothing moves any more."""
        while True:
            moved = [place.engine._pass() for place in self.places]
            self._shrink()
            with contextlib.suppress(BlockingIOError):
                self.servers.append(Peer(self.listener.accept()))
            moved += [peer.move() for peer in [self.client, *self.servers]]
            if not any(moved) and not self._is_moving():
                return

    def _shrink(self) -> None:
        """Give the connections to the backend small buffers too: else the kernel keeps whole uploads."""
        for place in self.places:
            for client in place.clients:
                sock = client.upstream and client.upstream.sock
                # To set it wakes up whoever waits for room, so only once; the kernel doubles it (socket(7)).
                if sock is not None and sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) != 2 * SMALL:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)

    def _is_moving(self) -> bool:
        """Whether something happens for which nobody has to do anything."""
        poll = select.poll()
        for sock in [*(place.engine._epoll for place in self.places), self.listener.sock]:
            poll.register(sock, select.POLLIN)
        for peer in [self.client, *self.servers]:
            events = (select.POLLIN if peer.listens else 0) | (select.POLLOUT if peer.to_say else 0)
            if events and not peer.has_ended:
                poll.register(peer.sock, events)
        return bool(poll.poll(self._quiet))

    def pack(self) -> list[Parcel]:
        """Take everything out of where it is."""
        parcels = [carried(pack(client)) for client in self.place.clients]
        for parcel in parcels:
            self.travelled[parcel.state["state"]] += 1
            self.travelled["pending"] += bool(parcel.state["pending"])
            upstream = parcel.state["upstream"]
            self.travelled["pending for the backend"] += bool(upstream and upstream["pending"])
            self.travelled["with a backend"] += upstream is not None
        return parcels

    def unpack(self, parcels: list[Parcel], place: int) -> None:
        self.here = place
        for parcel in parcels:
            check(parcel)
            unpack(self.place.service, parcel)

    def travel(self) -> int:
        """Go to the other place; return how many clients did."""
        parcels = self.pack()
        self.unpack(parcels, 1 - self.here)
        return len(parcels)

    @property
    def server(self) -> Peer:
        """The last connection to the backend."""
        return self.servers[-1]

    def totals(self) -> Totals:
        services = [place.service for place in self.places]
        generations = [each for service in services for each in service.generations.values()]
        answered: Counter[int] = Counter()
        for counts in [service.answered for service in services] + [each.requests for each in generations]:
            answered.update(counts)
        return Totals(
            sum(each.upstream.received for each in generations),
            sum(each.downstream.received for each in generations),
            (sum(each.upstream.unsent for each in generations), sum(each.downstream.unsent for each in generations)),
            dict(answered),
        )

    def outcome(self) -> tuple[object, ...]:
        """What the ends have seen, and what was counted."""
        seen = [(_DATE.sub(b"", peer.heard), peer.has_ended, peer.was_reset) for peer in [self.client, *self.servers]]
        return (*seen, self.totals())

    def close(self) -> None:
        for place in self.places:
            place.close()
        for peer in [self.client, *self.servers]:
            peer.sock.close()
        self.listener.close()
        self.public.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
