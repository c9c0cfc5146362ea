"""A generation that the kernel steers connections to, and what it has open: counted, looked at, and noticed at its end.

No worker has these connections. The kernel tells them apart by the mark that they have from the socket they were
accepted from, and by the address they came to: another proxy may use the same marks.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import trio

from proxy.kernel import inet_diag, tcp_ends

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from proxy.kernel.inet_diag import Connection, Tally

FAMILIES = (socket.AF_INET, socket.AF_INET6)
_READABLE = 2000

Listener = tuple[int, str, int]  # family, host, port
Json = dict[str, float]


@dataclass(eq=False)
class Home:
    """A service's place in the maps. `at` is where its clients connect to, also those who did before a reload; it is
    replaced, not changed, since other threads read it.
    """

    slot: int
    listeners: set[Listener] = field(default_factory=set)
    at: frozenset[tuple[str, int]] = frozenset()
    current: int = 0


@dataclass(frozen=True)
class Open:
    """What the kernel has of one generation: `live` connections, of which `waiting` were not accepted yet, and
    handshakes that are `half_open`.
    """

    live: int = 0
    waiting: int = 0
    half_open: int = 0

    def plus(self, tally: Tally) -> Open:
        return Open(
            self.live + tally.open + tally.waiting, self.waiting + tally.waiting, self.half_open + tally.half_open
        )


@dataclass(eq=False)
class Steered:
    """A generation that has a place in the maps. `sockets` are the inodes of its listening ones, by family, in the
    order that they have there. `open` is what was counted last: before that, there may be something.
    """

    service: str
    generation: int
    home: Home
    slot: int
    mark: int
    sockets: dict[int, list[int]] = field(default_factory=lambda: {family: [] for family in FAMILIES})
    open: Open = Open(live=1)
    details: Json | None = None

    @property
    def serves(self) -> bool:
        return any(self.sockets.values())


# Other threads call these: they read nothing that changes.


def connections(entry: Steered) -> list[Connection]:
    found = inet_diag.connections(marks=[entry.mark], ports=ports_of(entry.home))
    return [each for each in found if is_at(entry.home, each.local) and (each.is_live or each.is_half_open)]


def look_closely(entry: Steered) -> Json | None:
    """Of what drains, and not of so many that it would take long: that is for people to read."""
    if not 0 < entry.open.live <= _READABLE or entry.home.current == entry.slot:
        return None
    found = inet_diag.connections(marks=[entry.mark], ports=ports_of(entry.home), info=True)
    ours = [each for each in found if is_at(entry.home, each.local) and each.is_live]
    return {
        "received_bytes": sum(each.received for each in ours),
        "sent_bytes": sum(each.sent for each in ours),
        "least_idle": min((each.idle for each in ours), default=0.0),
        "most_idle": max((each.idle for each in ours), default=0.0),
    }


def counted(entries: Sequence[Steered]) -> dict[int, Open]:
    """By mark."""
    ports = set(chain.from_iterable(ports_of(each.home) for each in entries))
    by_mark = {each.mark: each for each in entries}
    found = dict.fromkeys(by_mark, Open())
    for (mark, host, port), tally in inet_diag.count(marks=by_mark.keys(), ports=ports).items():
        if is_at(by_mark[mark].home, (host, port)):
            found[mark] = found[mark].plus(tally)
    return found


def ports_of(home: Home) -> set[int]:
    return {port for _, port in home.at}


def is_at(home: Home, address: tuple[str, int]) -> bool:
    """Another proxy may use the same marks: a connection is ours if it came to an address of ours too."""
    at, (host, port) = home.at, address
    return address in at or ("::" if ":" in host else "0.0.0.0", port) in at  # noqa: S104


@contextlib.contextmanager
def ends(home: Home) -> Iterator[Callable[[], Awaitable[None]]]:
    """A way to wait until some connection has ended; where the kernel does not tell, for ever."""
    try:
        ends = tcp_ends.Ends(ports_of(home))
    except OSError:
        yield trio.sleep_forever
        return
    with ends:
        yield ends.wait
