"""The demo's clients: each keeps one connection for all its requests, and looks at every answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import TYPE_CHECKING

import trio

from proxy.cli.demo.connection import Answer, Connection, FailedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_PAUSE = 0.015  # seconds between a client's requests: a demo need not heat the room


@dataclass
class Load:
    """`readers` clients that GET and `buyers` that POST, until `stop`; what is under way then is finished."""

    port: int
    readers: int = 8
    buyers: int = 8
    answers: list[Answer] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    orders: list[str] = field(default_factory=list)
    """The ids of the POSTs that were sent, answered or not."""
    reopened: int = 0
    still_open: int = 0
    """At the end: connections that are the first ones of their clients."""
    on_both: int = 0
    """Those of them on which more than one version has answered."""
    _stopped: bool = False

    @property
    def clients(self) -> int:
        return self.readers + self.buyers

    @property
    def sent(self) -> int:
        return len(self.answers) + self.failed

    @property
    def failed(self) -> int:
        return self.failures.total()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(self.readers):
                nursery.start_soon(self._client, f"reader-{number}", self._read)
            for number in range(self.buyers):
                nursery.start_soon(self._client, f"buyer-{number}", self._buy)

    def stop(self) -> None:
        self._stopped = True

    def versions(self, *, since: float = 0.0, until: float = inf) -> Counter[str]:
        """Which version gave how many of the answers to requests that began in this span."""
        return Counter(answer.version for answer in self.answers if since <= answer.began < until)

    async def _client(self, name: str, ask: Callable[[Connection, str], Awaitable[Answer]]) -> None:
        connection = Connection(self.port)
        versions = set()
        try:
            for number in count(1):
                reopened = connection.reopened
                try:
                    answer = await ask(connection, f"{name}-{number}")
                    versions.add(answer.version)
                    self.answers.append(answer)
                except FailedError as error:
                    self.failures[str(error)] += 1
                self.reopened += connection.reopened - reopened
                if self._stopped:
                    break
                await trio.sleep(_PAUSE)
            if connection.is_open and not connection.reopened:
                self.still_open += 1
                self.on_both += len(versions) > 1
        finally:
            connection.close()

    async def _read(self, connection: Connection, _: str) -> Answer:
        return await connection.ask("GET", "/")

    async def _buy(self, connection: Connection, order: str) -> Answer:
        self.orders.append(order)
        return await connection.ask("POST", "/orders", order.encode())
