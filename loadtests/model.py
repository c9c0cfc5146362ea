"""The words of the load tests: who is measured (a relay), what it is made to do (a scenario), and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

TCP = "tcp"
HTTP = "http"

DIRECT = "direct"  # the product that is none: clients connect to the backends themselves

# Where connections go: through the relay's processes, or past them. As the proxy's configuration has it.
RELAY = "relay"
STEER = "steer"
INHERIT = "inherit"

# What a scenario measured once: values by the names of its columns. What was not measured is left out.
Sample = dict[str, float]


@dataclass(frozen=True)
class Backends:
    """Ports on 127.0.0.1 of the servers behind every relay; the same ones for all."""

    web: int  # nginx: /small, 128 bytes; /varied/…; /bulk
    bulk: int  # sends or takes a stream of bytes, after a line that says which
    echo: int  # websocket echo


@dataclass(frozen=True)
class Running:
    """A relay that is up. `ports`: its public port for each port of a backend; `pids`: what its CPU time is counted of.

    `workers` are those of `pids` that hold connections. `swap` replaces what serves, the way this relay's users do it
    on a deployment, and returns when new connections go to what is new; None where there is no such way.
    """

    ports: Mapping[int, int]
    pids: Callable[[], frozenset[int]]  # asked again each time: a swap may bring new processes
    workers: Callable[[], frozenset[int]]
    swap: Callable[[], None] | None = None
    may_idle: bool = False  # nothing goes through it: no CPU time at all is a result, and not a measurement too short


@dataclass(frozen=True)
class Relay:
    """One that can be measured. `start` brings it up in an empty folder; `missing` says why it cannot, or is empty."""

    name: str  # as in the tables, for example "HAProxy TCP"
    product: str  # "direct", "proxyctl", "HAProxy", "nginx", "Envoy", "naive"
    protocol: str  # TCP or HTTP; direct is TCP
    workers: int
    start: Callable[[Path, Backends], AbstractContextManager[Running]]
    version: Callable[[], str] = lambda: ""
    missing: str = ""
    datapath: str = RELAY  # STEER and INHERIT: it starts backends of its own, which are the same servers

    @property
    def has_no_hop(self) -> bool:
        """Whether a connection is between the client and the backend alone."""
        return self.product == DIRECT or self.datapath != RELAY


@dataclass(frozen=True)
class Column:
    """One value of a scenario. `better` is "more", "less", or "" where more of it is neither."""

    name: str  # in Sample and in JSON
    title: str  # in tables, with the unit
    better: str = ""
    digits: int = 0


@dataclass(frozen=True)
class Scenario:
    """What relays are made to do. `run` takes a relay that is up, and how long to go on, in seconds.

    `rounds` is the most rounds it is worth: what takes long or varies little is measured less often. `turns`: into how
    many loads a measurement is split of relays without a hop, each in turn with the others: they are close to each
    other, and the machine is not the same from one second to the next.
    """

    name: str  # for --scenarios, JSON and file names: "kept-32"
    title: str
    columns: tuple[Column, ...]
    run: Callable[[Running, Backends, float], Sample]
    protocols: tuple[str, ...] = (TCP, HTTP)
    needs_swap: bool = False
    is_fresh: bool = False  # each measurement begins with a relay that was just started
    rounds: int = 100
    turns: int = 1
    missing: str = ""  # what it needs and is not there: a program, and its package; a second CPU
    about: str = ""  # how it is measured, for RESULTS.md


@dataclass
class Results:
    """One run: samples by scenario and relay, in the order of the rounds, and the conditions they were measured in."""

    about: dict[str, str] = field(default_factory=dict)  # date, machine, command, versions …
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
