"""What control needs to find everything again, and how it looks in the state file (proxy/control/state_file.py).

The processes themselves, and the routes that the workers follow, are the truth; what is on file says what they are for.
Times that something depends on are CLOCK_MONOTONIC (clock_gettime(2)), which goes on as long as the machine runs, and
never jumps; those that are only shown are Unix times.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from proxy.control.record import Record as BackendRecord  # noqa: TC001  # pydantic looks at it when it runs
from proxy.kernel import procfs

FORMAT = 4
# What later formats have beside format 1 has defaults: operations, recipes and departures (2), generations that inherit
# (3), who asked for an operation (4).
READS = frozenset({1, 2, 3, FORMAT})

Json = dict[str, Any]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ProcessRecord(_Model):
    """A process for certain: a pid alone can be reused, with its start time (clock ticks since boot, proc(5)) not.

    A worker's `socket` is set where that is not in the folder of workers: an abstract name (unix(7)).
    """

    pid: int
    start_time: int
    socket: str = ""


class DepartureRecord(_Model):
    """How far a generation that leaves has got. `began` is a Unix time, `deadline` and `warm_until` monotonic ones."""

    began: float
    deadline: float
    initial: int
    forced: int = 0
    operation: int | None = None
    warm_until: float | None = None


class GenerationRecord(_Model):
    """`recipe` is the version as it was started, which the config may no longer have. `signalled`: its backends have
    been told to stop already. `inherits`: they accept on the public listeners themselves.
    """

    id: int
    version: str
    state: str
    backends: list[BackendRecord] = Field(default_factory=list)
    since: float = 0.0
    recipe: Json = Field(default_factory=dict)
    restarts: dict[str, int] = Field(default_factory=dict)
    signalled: bool = False
    inherits: bool = False
    departure: DepartureRecord | None = None


class OperationRecord(_Model):
    """An operation that has not ended. `old` is the generation that it leads away from, known once it has switched;
    `baked_until` a monotonic time; `undone` why it went back; `by` who asked for it (core/caller.py).
    """

    id: int
    kind: str
    origin: str | None
    target: str
    began: float
    phase: str
    seconds: dict[str, float] = Field(default_factory=dict)
    generation: int | None = None
    old: int | None = None
    drain_limit: float = 0.0
    baked_until: float | None = None
    undone: str = ""
    drained: int = 0
    forced: int = 0
    by: dict[str, str] = Field(default_factory=dict)


class ServiceRecord(_Model):
    """`active` is the version that served last, `configured` what the file said when that was decided: as long as the
    file still says so, the decision stands; once it was edited, the file is newer.

    `known` holds the commands of versions that came with `swap X --command`.
    """

    next_generation: Annotated[int, Field(ge=1)] = 1
    active: str | None = None
    configured: str | None = None
    previous: str | None = None
    previous_generation: int = 0
    previous_recipe: Json = Field(default_factory=dict)
    paused: bool = False
    known: dict[str, list[str]] = Field(default_factory=dict)
    generations: list[GenerationRecord] = Field(default_factory=list)
    operations: list[OperationRecord] = Field(default_factory=list)


class UpgradeRecord(_Model):
    """An upgrade that has got as far as the new code; it goes on from there. `began` is a Unix time, `replaced` (when
    the old code gave way) and `running_since` (when the process began) are monotonic ones.
    """

    id: int
    old: str
    began: float
    running_since: float
    replaced: float = 0.0
    seconds: dict[str, float] = Field(default_factory=dict)


class State(_Model):
    """`boot` tells whether the processes in it can still run: pids and start times begin anew with every boot.

    `config` is the text of the config that is in force: what has changed since is found when it is compared with it.
    """

    format: int = FORMAT
    boot: str = Field(default_factory=procfs.boot_id)
    config: str = ""
    next_operation: int = 1
    workers: list[ProcessRecord] = Field(default_factory=list)
    services: dict[str, ServiceRecord] = Field(default_factory=dict)
    upgrade: UpgradeRecord | None = None


def parse(content: bytes) -> State:
    """Read what `dump` made, in this release or the one before. Raises ValueError (pydantic's ValidationError is one)
    when it is anything else.
    """
    values = json.loads(content)
    found = values.get("format") if isinstance(values, dict) else None
    if not isinstance(found, int) or found not in READS:
        raise ValueError(f"format {found}, this release reads {', '.join(map(str, sorted(READS)))}")
    return State.model_validate_json(json.dumps({**values, "format": FORMAT}))


def dump(state: State) -> bytes:
    return json.dumps(state.model_dump(), indent=1).encode() + b"\n"
