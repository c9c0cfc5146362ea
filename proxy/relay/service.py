"""One service in a worker: its policy, its listeners, its generations, and the clients that wait."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING

from proxy.core.address import Address
from proxy.core.balance import POLICIES, least
from proxy.core.http.forwarded import Forwarding
from proxy.logs import facts
from proxy.relay.acceptor import Listener
from proxy.relay.attempt import Attempt
from proxy.relay.client import Client
from proxy.relay.connection import Connection
from proxy.relay.generation import Generation
from proxy.relay.http.client import HttpClient
from proxy.wire import Counts

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Collection, Iterator

    from proxy.relay.acceptor import Gate
    from proxy.relay.access_log import AccessLog
    from proxy.relay.engine import Engine
    from proxy.relay.generation import Endpoint, Member
    from proxy.relay.seeker import Seeker
    from proxy.wire import Http, Route

log = logging.getLogger(__name__)

SHORTEST_ATTEMPT = 1.0  # seconds
COALESCE = 0.1  # seconds between two announcements of how many connections a generation still has
PART = 50  # generations in one message of counts, each up to some 2,000 bytes
RELEASE = 64  # waiting clients that are let go at a time, so that they do not flood the backend's accept queue


@dataclasses.dataclass(frozen=True, slots=True)
class Switch:
    """A switch that is about to come: the route to follow should control leave before it says so, if a file says 1."""

    then: Route
    decision: int  # a descriptor of that file, to be closed

    def is_decided(self) -> bool:
        try:
            return os.pread(self.decision, 1, 0) == b"1"
        except OSError as error:
            log.error("whether a switch was decided cannot be read", extra=facts(error=error.strerror))
            return False

    def close(self) -> None:
        os.close(self.decision)


class Service:
    """What control knows by name. `announce(service, generation, connections)` tells control of a drain's progress."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        gate: Gate,
        announce: Callable[[str, int, int], None],
        access_log: AccessLog | None = None,
    ) -> None:
        self.name = name
        self.access_log = access_log
        self.http: Http | None = None  # how requests are treated, if they are understood
        self.forwarding = Forwarding("off", request_id=False)
        self.http_clients: set[HttpClient] = set()
        self.answered: defaultdict[int, int] = defaultdict(int)  # by status
        self.migrated = 0
        self.retried = 0
        self.engine = engine
        self.gate = gate
        self.policy: Route | None = None
        self.is_holding = True  # new connections wait for the next route, without a limit
        self.is_ending = False  # no generation is to come any more; what is open may finish
        self.idle_timeout = 0.0
        self.patience = math.inf  # seconds for one attempt to connect
        self.generation = Generation(0)  # the one that takes new connections; none does before the first route
        self.generations: dict[int, Generation] = {}
        self.endpoints: list[Endpoint] = []
        self.waiting: dict[Seeker, None] = {}  # in the order they came
        self.refused: dict[str, int] = {}
        self._announce = announce
        self._clients = 0
        self._limit: float = math.inf
        self._has_room = True
        self._listeners: dict[str, Listener] = {}
        self._released: deque[Seeker] = deque()
        self._balance = least
        self.balances_requests = False  # a request may go to another endpoint than the one before
        self._turn = 0
        self._switch: Switch | None = None  # new connections wait for it

    # Policy

    def route(self, policy: Route) -> dict[int, int]:
        """Take a new policy; return the connections of each generation that has any, and of the new one.

        Raises ValueError for an endpoint that is no address or a balance that is not known; nothing changes then.
        """
        _check(policy)
        self._drop_switch()
        generation = self.generations.get(policy.generation) or Generation(policy.generation)
        endpoints = generation.endpoints(endpoint.address for endpoint in policy.endpoints)
        for endpoint, named in zip(endpoints, policy.endpoints, strict=True):
            endpoint.replica = named.replica
        generation.version = policy.version
        self.generations[policy.generation] = self.generation = generation
        self.endpoints = endpoints
        self._replace(policy)
        if not self.is_ending:  # else who is being connected may arrive
            self._redirect()
        else:
            for client in list(self.http_clients):
                client.service_ends()
        counts = {number: len(each.members) for number, each in self.generations.items() if each.members}
        return {policy.generation: 0} | counts

    def hold(self, then: Route, decision: int) -> None:
        """Let new connections wait for the next route: as soon as all workers do, it is to be `then`.

        `decision` is a descriptor of a file of one byte, and only lent: see wire.Hold. Raises ValueError for a route
        that could not be followed, OSError where the descriptor cannot be copied; nothing changes then.
        """
        _check(then)
        switch = Switch(then, os.dup(decision))
        self._drop_switch()
        self._switch = switch
        if self.policy is not None:
            self._replace(dataclasses.replace(self.policy))

    def control_lost(self) -> None:
        """Control is gone; in the middle of a switch, do what it had decided."""
        switch = self._switch
        if switch is None:
            return
        is_decided = switch.is_decided()
        log.warning("control left in a switch", extra=facts(service=self.name, goes_on=is_decided))
        self._drop_switch()
        if is_decided:
            self.route(switch.then)
        elif self.policy is not None:
            self._replace(dataclasses.replace(self.policy))

    def _drop_switch(self) -> None:
        if self._switch is not None:
            self._switch.close()
            self._switch = None

    def pick(self, tried: Collection[Endpoint]) -> Endpoint | None:
        """Choose an endpoint of the route that was not tried yet."""
        candidates = [endpoint for endpoint in self.endpoints if endpoint not in tried] if tried else self.endpoints
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        self._turn += 1
        if self.http is not None:  # requests under way say more than connections, most of which are idle
            return candidates[
                self._balance([(each.in_flight << 32) + each.connections for each in candidates], self._turn)
            ]
        return candidates[self._balance([each.connections for each in candidates], self._turn)]

    def has_better(self, endpoint: Endpoint) -> bool:
        """Whether another endpoint has so much less to do that it is worth a new connection."""
        fewest = min(each.in_flight for each in self.endpoints)
        return endpoint.in_flight - fewest >= (2 if fewest else 1)

    def _replace(self, policy: Route) -> None:
        was_holding, had_idle = self.is_holding, self.idle_timeout
        self.policy = policy
        self.is_holding = policy.paused or self._switch is not None
        self.is_ending = not policy.generation
        self.idle_timeout = policy.idle_timeout
        if policy.http != self.http:
            self.http = policy.http
            if policy.http is not None:
                self.forwarding = Forwarding(policy.http.forwarded, request_id=policy.http.request_id)
        self._balance = POLICIES[policy.balance]
        self.balances_requests = len(self.endpoints) > 1 and policy.balance == "least"
        # An endpoint that does not answer leaves time for the others.
        self.patience = max(SHORTEST_ATTEMPT, policy.connect_timeout / 4) if len(self.endpoints) > 1 else math.inf
        self._limit = math.inf if policy.max_connections is None else policy.max_connections
        self._update_room()
        if self.idle_timeout != had_idle:
            self._watch_idle()
        if self.is_holding:
            self._released.clear()
            for client in self.waiting:
                client.rearm()
        else:
            if was_holding:
                for client in self.waiting:
                    client.deadline = self.deadline()
            self._released = deque(self.waiting)
            self._release()

    def _watch_idle(self) -> None:
        for generation in self.generations.values():
            for member in generation.members:
                if isinstance(member, Connection):
                    member.watch_idle()
        for client in self.http_clients:
            client.watch_idle()

    def _redirect(self) -> None:
        """Let who is with another generation than the route's, but has nothing under way there, come over."""
        for generation in self.generations.values():
            if generation is not self.generation:
                for member in list(generation.members):
                    member.redirect()

    def _release(self) -> None:
        """Let those go that waited for this route, some at a time."""
        for _ in range(min(RELEASE, len(self._released))):
            client = self._released.popleft()
            if client in self.waiting:
                del self.waiting[client]
                client.start()
        if self._released:
            self.engine.at(self.engine.now, self._release)

    def deadline(self) -> float:
        """Until when a client that comes, or is let go, now is to have a backend."""
        if self.policy is None or not self.policy.connect_timeout:
            return math.inf
        return self.engine.now + self.policy.connect_timeout

    # Listeners

    def listen(self, address: str, fd: int, *, accept: bool = True) -> None:
        """Accept on a copy of a listening descriptor, instead of the one that had this address before, if any.

        Without `accept`, only keep it open.
        """
        before = self._listeners.get(address)
        listener = self._listeners[address] = Listener(self.engine, self.gate, self, fd, accept=accept)
        listener.wanted = self._has_room
        listener.update()
        if before is not None:
            before.close(drain=True)

    @property
    def listeners(self) -> dict[str, int]:
        """The descriptor of each listener, by its address."""
        return {address: listener.fd for address, listener in self._listeners.items()}

    @property
    def accepts(self) -> bool:
        """Whether it does on its listeners; else it only keeps them open."""
        return all(listener.accepts for listener in self._listeners.values())

    def unlisten(self, address: str) -> None:
        """Stop accepting on a listener; what waits in its queue is accepted first. Unknown ones are no error."""
        listener = self._listeners.pop(address, None)
        if listener is not None:
            listener.close(drain=self._limit > 0)

    def _update_room(self) -> None:
        has_room = self._clients < self._limit
        if has_room != self._has_room:
            self._has_room = has_room
            for listener in self._listeners.values():
                listener.wanted = has_room
                listener.update()

    # Clients

    def admit(self, sock: _socket.socket, address: object) -> None:
        """Take an accepted connection."""
        self.client_came()
        if self.http is not None:
            HttpClient(self, sock, address).start()
            return
        attempt = self.first_attempt()
        if attempt is None:
            Client(self, sock).start()
        elif error := attempt.connect():
            Client(self, sock).take_over(attempt, error)
        else:  # nearly always, with backends on this machine: no need for what a client has who must wait
            attempt.join(self, sock, self.engine.now).start()

    def first_attempt(self) -> Attempt | None:
        """Return an attempt for somebody who has just come, or None for one that has to wait."""
        endpoint = None if self.is_holding else self.pick(())
        if endpoint is None:
            return None
        try:
            return Attempt(endpoint, self.generation)
        except OSError:
            return None

    def client_came(self) -> None:
        """There is one more client's socket."""
        self._clients += 1
        if self._clients >= self._limit:
            self._update_room()
        self.gate.enter()

    def client_left(self) -> None:
        """A client's socket is being closed."""
        self._clients -= 1
        if not self._has_room:
            self._update_room()
        self.gate.leave()

    def left(self, connection: Connection, generation: Generation, endpoint: Endpoint) -> None:
        """A connection was closed."""
        endpoint.connections -= 1
        self.leave_generation(connection, generation)
        self.client_left()

    def leave_generation(self, member: Member, generation: Generation) -> None:
        """A connection is not the generation's any more; if that is being drained, control learns what is left."""
        generation.members.remove(member)
        if generation is not self.generation:
            if not generation.members:
                self._announce(self.name, generation.number, 0)
            elif not generation.announcing:
                generation.announcing = True
                self.engine.at(self.engine.now + COALESCE, lambda: self._announce_rest(generation))

    def _announce_rest(self, generation: Generation) -> None:
        generation.announcing = False
        if generation.members and generation is not self.generation:
            self._announce(self.name, generation.number, len(generation.members))

    def refuse(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1

    # From one worker to another

    def find_generation(self, number: int, version: str) -> Generation:
        """Return a generation by its number, a new one if it is not known here."""
        generation = self.generations.get(number)
        if generation is None:
            generation = self.generations[number] = Generation(number)
            generation.version = version
        return generation

    def announce_drains(self) -> None:
        """Tell control how many connections the generations have that are not the active one."""
        for generation in self.generations.values():
            if generation is not self.generation:
                self._announce(self.name, generation.number, len(generation.members))

    # The end

    def close_generation(self, number: int) -> int:
        """Close every connection of a generation; return how many there were."""
        generation = self.generations.get(number)
        if generation is None:
            return 0
        members = list(generation.members)
        for member in members:
            member.end()
        return len(members)

    def forget(self, number: int) -> None:
        """Drop the counters of a generation. Raises ValueError while it has connections or takes new ones."""
        generation = self.generations.get(number)
        if generation is None:
            return
        if generation is self.generation:
            raise ValueError(f"generation {number} of {self.name} takes new connections")
        if generation.members:
            raise ValueError(f"generation {number} of {self.name} still has {len(generation.members)} connections")
        del self.generations[number]

    def close(self) -> None:
        """Close the listeners, and everything that is left."""
        for listener in self._listeners.values():
            listener.close(drain=False)
        self._listeners.clear()
        self._drop_switch()
        for number in self.generations:
            self.close_generation(number)
        for client in list(self.waiting):
            client.end()
        for http_client in list(self.http_clients):
            http_client.expel()

    def counts(self) -> Iterator[Counts]:
        """Everything counted, in as many parts as it takes for each to fit into a message."""
        in_flight = Counter(client.generation_in_flight for client in self.http_clients)
        generations = {number: each.counts(in_flight[each]) for number, each in self.generations.items()}
        numbers = list(generations)
        for start in range(0, len(numbers) or 1, PART):
            part = {number: generations[number] for number in numbers[start : start + PART]}
            yield Counts(
                self.name,
                waiting=len(self.waiting),
                refused=self.refused,
                generations=part,
                answered={str(status): count for status, count in self.answered.items()},
                migrated=self.migrated,
                retried=self.retried,
            )


def _check(policy: Route) -> None:
    """Raise ValueError for a policy that cannot be followed."""
    if policy.balance not in POLICIES:
        raise ValueError(f'unknown balance "{policy.balance}"')
    for endpoint in policy.endpoints:
        Address.parse(endpoint.address)
