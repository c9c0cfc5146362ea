"""The messages between control and workers.

Each message is one datagram on a Unix SOCK_SEQPACKET socket (unix(7)): the kernel keeps the boundaries, and descriptors
travel with the message they belong to (SCM_RIGHTS, at most 253). The payload is JSON: `{"t": type, …fields}`.

Control's requests carry a number (`seq`); the worker answers each with an `Ack` of the same number: all in order, but
for `Handover` and `TakeOver`, which take their time. What a worker says unasked (`Hello`, `Remaining`) has none.

Control and workers can be of different releases: a control process may find workers that another one started. The
worker says its version first. Control talks to those in `READS`, and lets all others alone. What a message of an
earlier version lacks has its default; what one of a later version has on top is not known here, and an error.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, get_args

from proxy.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VERSION = 4
# The versions of workers that control can talk to: those of this and of the previous release.
READS = frozenset({3, VERSION})
MAX_MESSAGE = 192 * 1024  # below the default net.core.wmem_default (212992), so that a send never needs splitting
MAX_FDS = 253

# Upper bounds in seconds; one more bucket counts what lies above the last.
DURATION_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0)
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
CONNECT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a replica in rotation accepts: an address as core.address writes it, IP literals only."""

    replica: int
    address: str


@dataclass(frozen=True, slots=True)
class Http:
    """How requests are treated where they are understood; the names are those of the config."""

    header_timeout: float = 30.0
    forwarded: str = "append"
    request_id: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What control asks; `seq` is filled in by the link that sends it."""

    seq: int


@dataclass(frozen=True, slots=True)
class Listen(Request):
    """Start accepting on the listeners whose descriptors come along (one for each of `add`, in order), and stop on
    those in `remove`: what waits in their queues is accepted first.

    Without `accept`, they are only kept open, for the next control process: it is backends who accept on them.
    """

    service: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    accept: bool = True


@dataclass(frozen=True, slots=True)
class Route(Request):
    """The whole policy of a service for new connections; it replaces the one before in one step.

    `endpoints` are the replicas in rotation of `generation`. While there are none, new connections wait up to
    `connect_timeout`. `paused`: they wait until a Route says otherwise, however long. `max_connections` is this
    worker's share; None is no limit. Times are in seconds; an `idle_timeout` of 0 is none. With `http`, connections
    are understood as HTTP/1, and "new connections" includes new requests on open ones. `version` names the generation
    in the access log.
    """

    service: str
    generation: int
    endpoints: tuple[Endpoint, ...] = ()
    paused: bool = False
    balance: str = "least"
    connect_timeout: float = 5.0
    idle_timeout: float = 0.0
    max_connections: int | None = None
    version: str = ""
    http: Http | None = None


@dataclass(frozen=True, slots=True)
class Hold(Request):
    """Let new connections wait: a switch to the route `then` is about to come, as a Route of its own.

    One descriptor comes along, the same for every worker: a file of one byte. Should control leave before that Route,
    it is followed if the byte is 1, and not if it is 0: so all workers do the same, wherever control got to.
    """

    service: str
    then: Route


@dataclass(frozen=True, slots=True)
class Describe(Request):
    """Ask what is served. One `Serving` for each service comes before the Ack."""


@dataclass(frozen=True, slots=True)
class Handover(Request):
    """Stop accepting, and give every connection to the worker at the other end of the socket that comes along.

    The Ack comes when nothing is left here. What could not be carried is served until then. With an error, it says that
    what was not `carried` stays here, and that this worker accepts again.
    """


@dataclass(frozen=True, slots=True)
class TakeOver(Request):
    """Take the connections that come on the socket that comes along. The Ack comes when there are no more of them.

    Its `carried` says how many came, and `pause` for how many seconds the worst of them was not read.
    """


@dataclass(frozen=True, slots=True)
class Close(Request):
    """Close what is still open of a generation, now. The Ack's `forced` says how many connections that were."""

    service: str
    generation: int


@dataclass(frozen=True, slots=True)
class Forget(Request):
    """Drop the counters of a generation that is gone; with generation 0, the whole service."""

    service: str
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot(Request):
    """Ask for every count. One `Counts` for each service comes before the Ack."""


@dataclass(frozen=True, slots=True)
class Exit(Request):
    """Leave, closing whatever is still open."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A worker's first words on each connection from control. `release` is that of its code."""

    version: int
    pid: int
    release: str = ""


@dataclass(frozen=True, slots=True)
class Ack:
    """A request was carried out. After a Route, `connections` holds the open connections of each generation."""

    seq: int
    connections: dict[int, int] = field(default_factory=dict)
    forced: int = 0
    error: str = ""
    carried: int = 0
    pause: float = 0.0


@dataclass(frozen=True, slots=True)
class Serving:
    """What a worker does for a service: the route it follows, None before the first one, and its listeners, whose
    descriptors come along in this order. One with more listeners than fit comes in several messages. `connections`
    holds the open connections of each generation that has any. `accept` is as in Listen.
    """

    service: str
    route: Route | None
    listeners: tuple[str, ...] = ()
    connections: dict[int, int] = field(default_factory=dict)
    accept: bool = True


@dataclass(frozen=True, slots=True)
class Remaining:
    """Connections that a generation which is not the active one still has; 0 is said at once, others coalesced."""

    service: str
    generation: int
    connections: int


@dataclass(slots=True)
class Histogram:
    """Observations: `counts` per bucket (one longer than the bounds), and the `sum` of what was observed."""

    counts: list[int]
    sum: float = 0.0

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> Histogram:
        return cls([0] * (len(bounds) + 1))

    def add(self, other: Histogram) -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


@dataclass(slots=True)
class GenerationCounts:
    """What one generation's connections did. `active` and `in_flight` are gauges, everything else only grows.

    `in_flight` are requests that have been given to the generation and not been answered in full; `requests` those that
    were, by status code. Connections that the kernel handed to the backend itself are `steered`, and are in `active`
    and `connections` too; those that it could not hand over have `fallen_through` to a worker, which counts them.
    """

    active: int = 0
    connections: int = 0
    received_client: int = 0
    received_backend: int = 0
    sent_client: int = 0
    sent_backend: int = 0
    connect_errors: dict[str, int] = field(default_factory=dict)
    duration: Histogram = field(default_factory=lambda: Histogram.empty(DURATION_BUCKETS))
    connect: Histogram = field(default_factory=lambda: Histogram.empty(CONNECT_BUCKETS))
    in_flight: int = 0
    requests: dict[str, int] = field(default_factory=dict)
    request_duration: Histogram = field(default_factory=lambda: Histogram.empty(REQUEST_BUCKETS))
    steered: int = 0
    fallen_through: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Everything counted for one service: `waiting` holds clients that want a backend and have none yet (a gauge).

    `answered` are requests that the proxy answered itself before any generation had them, by status code. `migrated`
    counts connections that let go of a generation because another one had become the active one, `retried` requests
    that were sent a second time.
    """

    service: str
    waiting: int
    refused: dict[str, int]
    generations: dict[int, GenerationCounts]
    answered: dict[str, int] = field(default_factory=dict)
    migrated: int = 0
    retried: int = 0


Message = (
    Listen
    | Route
    | Hold
    | Describe
    | Handover
    | TakeOver
    | Close
    | Forget
    | Snapshot
    | Exit
    | Hello
    | Ack
    | Serving
    | Remaining
    | Counts
)

_TYPES: Mapping[str, type[Any]] = {kind.__name__.lower(): kind for kind in get_args(Message)}
_DEFAULTS: Mapping[type[Any], Mapping[str, object]] = {
    kind: {each.name: each.default for each in fields(kind) if each.default is not MISSING} for kind in _TYPES.values()
}


def encode(message: Message) -> bytes:
    """What has its default is left out: a reader of an earlier version, which lacks the field, is told nothing new."""
    defaults = _DEFAULTS[type(message)]
    values = {name: value for name, value in asdict(message).items() if name not in defaults or value != defaults[name]}
    payload = json.dumps({"t": type(message).__name__.lower(), **values}, separators=(",", ":")).encode()
    if len(payload) > MAX_MESSAGE:
        raise WireError(
            f"a {type(message).__name__} message of {len(payload)} bytes is over the limit of {MAX_MESSAGE}"
        )
    return payload


def decode(payload: bytes) -> Message:
    """Raise WireError for anything that `encode` of this version, or of an earlier one, did not write."""
    try:
        values = json.loads(payload)
        kind = _TYPES[values.pop("t")]
        message: Message = kind(**_rebuilt(values))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"not a message of version {VERSION}: {payload[:80]!r} ({error!r})") from error
    return message


def _rebuilt(values: dict[str, Any]) -> dict[str, Any]:
    for name in _REBUILD.keys() & values.keys():
        values[name] = _REBUILD[name](values[name])
    return values


def _generation_counts(values: dict[str, Any]) -> GenerationCounts:
    for name in ("duration", "connect", "request_duration"):
        if name in values:
            values[name] = Histogram(**values[name])
    return GenerationCounts(**values)


# JSON has no tuples and no integer keys; these fields are put back into the shape that the dataclasses declare. A name
# is enough: none is used for two shapes (`connections` of Remaining is a number and passes through).
_REBUILD: Mapping[str, Callable[[Any], Any]] = {
    "add": tuple,
    "remove": tuple,
    "listeners": tuple,
    "route": lambda value: Route(**_rebuilt(value)) if value is not None else None,
    "then": lambda value: Route(**_rebuilt(value)),
    "endpoints": lambda items: tuple(Endpoint(**item) for item in items),
    "http": lambda value: Http(**value) if value is not None else None,
    "connections": lambda value: (
        {int(key): count for key, count in value.items()} if isinstance(value, dict) else value
    ),
    "generations": lambda items: {int(key): _generation_counts(values) for key, values in items.items()},
}
