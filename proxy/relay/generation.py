"""One generation in one worker: its open connections, its endpoints, and what they counted."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from proxy.core.address import Address
from proxy.wire import CONNECT_BUCKETS, DURATION_BUCKETS, REQUEST_BUCKETS, GenerationCounts, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable


def _ephemeral_ports() -> range:
    """Return the ports that the kernel gives to sockets which did not ask for one (ip(7))."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    except OSError:
        return range(1024, 65536)
    return range(int(first), int(last) + 1)


_EPHEMERAL = _ephemeral_ports()


class Member(Protocol):
    """A connection that belongs to a generation, whether it is open or still being connected."""

    def redirect(self) -> None:
        """Another generation takes new connections now: go there, if nothing is lost by that."""
        ...

    def end(self) -> None:
        """Close it from outside: FIN where nothing is under way, RST where something would be cut short."""
        ...


class Flow:
    """Bytes one way. `unsent` is what was received and has not been sent on; both are updated where bytes move."""

    __slots__ = ("received", "unsent")

    def __init__(self) -> None:
        self.received = 0
        self.unsent = 0

    @property
    def sent(self) -> int:
        return self.received - self.unsent


class Endpoint:
    """Where a replica accepts, and how many connections of this worker it has or is about to have.

    `in_flight` of these are waiting for a response, where requests are understood.
    """

    __slots__ = (
        "address", "connections", "family", "in_flight", "is_ephemeral", "is_loopback", "port", "replica", "sockaddr",
    )  # fmt: skip

    def __init__(self, address: str) -> None:
        parsed = Address.parse(address)
        self.address = address
        self.family = int(parsed.family)
        self.sockaddr = parsed.sockaddr
        self.port = parsed.port
        self.is_ephemeral = parsed.port in _EPHEMERAL
        self.is_loopback = parsed.is_loopback
        self.connections = 0
        self.in_flight = 0
        self.replica = 0


class Generation:
    """Everything of one generation."""

    __slots__ = (
        "_endpoints",
        "announcing",
        "connect",
        "connect_errors",
        "connections",
        "downstream",
        "duration",
        "members",
        "number",
        "request_duration",
        "requests",
        "upstream",
        "version",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.members: set[Member] = set()
        self.connections = 0
        self.upstream = Flow()  # client to backend
        self.downstream = Flow()
        self.connect_errors: dict[str, int] = {}
        self.duration = Histogram.empty(DURATION_BUCKETS)
        self.connect = Histogram.empty(CONNECT_BUCKETS)
        self.requests: defaultdict[int, int] = defaultdict(int)  # by status
        self.request_duration = Histogram.empty(REQUEST_BUCKETS)
        self.version = ""
        self.announcing = False  # a timer is set that will say how many members are left
        self._endpoints: dict[str, Endpoint] = {}

    def endpoints(self, addresses: Iterable[str]) -> list[Endpoint]:
        """Return the endpoints at these addresses, the known ones with their counts; raise ValueError for a bad one."""
        wanted = [self._endpoints.get(address) or Endpoint(address) for address in addresses]
        busy = {address: endpoint for address, endpoint in self._endpoints.items() if endpoint.connections}
        self._endpoints = busy | {endpoint.address: endpoint for endpoint in wanted}
        return wanted

    def endpoint(self, address: str, replica: int) -> Endpoint:
        """Return the endpoint at an address, a new one if none is known; raise ValueError for a bad address."""
        endpoint = self._endpoints.get(address)
        if endpoint is None:
            endpoint = self._endpoints[address] = Endpoint(address)
            endpoint.replica = replica
        return endpoint

    def connected(self, seconds: float) -> None:
        self.connections += 1
        self.connect.counts[bisect_left(CONNECT_BUCKETS, seconds)] += 1
        self.connect.sum += seconds

    def failed(self, reason: str) -> None:
        self.connect_errors[reason] = self.connect_errors.get(reason, 0) + 1

    def lasted(self, seconds: float) -> None:
        self.duration.counts[bisect_left(DURATION_BUCKETS, seconds)] += 1
        self.duration.sum += seconds

    def answered(self, status: int, seconds: float) -> None:
        """A request was answered in full."""
        self.requests[status] += 1
        self.request_duration.counts[bisect_left(REQUEST_BUCKETS, seconds)] += 1
        self.request_duration.sum += seconds

    def counts(self, in_flight: int = 0) -> GenerationCounts:
        """What is counted so far, with what is counted elsewhere. Shares the histograms, to be encoded at once."""
        return GenerationCounts(
            active=len(self.members),
            connections=self.connections,
            received_client=self.upstream.received,
            sent_backend=self.upstream.sent,
            received_backend=self.downstream.received,
            sent_client=self.downstream.sent,
            connect_errors=self.connect_errors,
            duration=self.duration,
            connect=self.connect,
            in_flight=in_flight,
            requests={str(status): count for status, count in self.requests.items()},
            request_duration=self.request_duration,
        )
