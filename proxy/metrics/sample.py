"""The proxy at the moment of a scrape: what is not counted by control as it happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy import wire


@dataclass(frozen=True)
class ReplicaSample:
    version: str
    generation: int
    replica: int
    up: bool


@dataclass(frozen=True)
class DrainSample:
    """`deadline` is a Unix time."""

    version: str
    generation: int
    connections: int
    deadline: float


@dataclass(frozen=True)
class ServiceSample:
    """A service at the moment of a scrape; `active` is the number of the active generation, 0 without one.

    With `protocol` "http" there are series of requests too, with "steer" in `datapath_configured` those of what was
    steered. `datapath` is the data path in effect. `swap_started` is when the last swap, rollback or restart began, and
    `swaps_ended` when the last one with each result ended, in Unix time.
    """

    name: str
    active: int
    counts: wire.Counts
    replicas: Sequence[ReplicaSample] = field(default=())
    drains: Sequence[DrainSample] = field(default=())
    protocol: str = "tcp"
    datapath: str = "relay"
    datapath_configured: str = "relay"
    swap_started: float | None = None
    swaps_ended: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """The whole proxy at the moment of a scrape; `workers` says which indexes are up, `worker_connections` how many
    connections each of them has.

    `trouble` says of each kind whether there is any now. `handover_pause` is the longest time, in seconds, for which a
    connection was not read in the last handover from a worker to its successor; None when there was none.
    """

    services: Sequence[ServiceSample]
    workers: Mapping[int, bool]
    worker_restarts: int
    worker_connections: Mapping[int, int] = field(default_factory=dict)
    trouble: Mapping[str, bool] = field(default_factory=dict)
    handover_pause: float | None = None
