"""What the API answers, for its description alone (openapi.py): nothing here is run when it answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

Time = Annotated[float, Field(description="Unix time, in seconds.")]
Seconds = Annotated[float, Field(ge=0, description="Seconds.")]
Count = Annotated[int, Field(ge=0)]
Names = list[str]


class By(BaseModel):
    """Who asked for it."""

    via: str = Field(description='The way: "socket", "tcp", "signal" or "config".')
    from_: str = Field(alias="from", description="Where from: a process, an address, the signal's name.")
    as_: str = Field(alias="as", description='By what right: the user of a process, "token", "page" or "loopback".')


class Phases(BaseModel):
    """Seconds of each phase; 0 where it did not come to that."""

    start: Seconds
    health: Seconds
    switch: Seconds
    drain: Seconds
    stop: Seconds


class Operation(BaseModel):
    """A swap, rollback or restart that has begun."""

    id: Count
    service: str
    kind: Literal["swap", "rollback", "restart"]
    from_: str | None = Field(alias="from", description="The version that served before.")
    to: str
    generation: int | None = Field(description="The new generation's number, once it has one.")
    phase: str
    started: Time
    by: By


class Result(BaseModel):
    """How a swap, rollback or restart ended."""

    service: str
    from_: str | None = Field(alias="from")
    to: str
    result: Literal["swapped", "failed", "rolled_back"]
    phases: Phases
    drained: Count = Field(description="Connections of the old generation that ended by themselves.")
    forced: Count = Field(description="Connections that were closed at the deadline.")
    overlap: float | None = Field(default=None, description='With datapath "inherit": how long both accepted.')
    error: str | None
    hint: str
    output: Names = Field(description="The last lines that the backend printed, where it failed.")
    id: Count
    kind: Literal["swap", "rollback", "restart"]
    generation: int | None
    started: Time
    finished: Time
    by: By | None = None


class Replica(BaseModel):
    """One backend process, or one external address."""

    replica: Count
    pid: int | None
    address: str | None
    healthy: bool
    restarts: Count
    reason: str


class Drain(BaseModel):
    """How far a drain is."""

    started: Time
    deadline: Time
    initial: Count
    remaining: Count
    forced: Count


class Generation(BaseModel):
    """One start of one version."""

    id: Count
    version: str
    state: Literal["starting", "active", "draining", "warm", "stopping", "failed"]
    connections: Count
    in_flight: Count | None
    steered: Count
    fallen_through: Count
    since: Time
    replicas: list[Replica]
    drain: Drain | None
    open: dict[str, float] | None = Field(description="Of the connections that a steered generation has left.")


class Service(BaseModel):
    """A service and what runs of it."""

    listen: Names
    protocol: Literal["tcp", "http"]
    datapath: Literal["relay", "steer", "inherit"]
    datapath_configured: Literal["relay", "steer", "inherit"]
    datapath_reason: str
    state: Literal["starting", "serving", "swapping", "draining", "paused", "down"]
    active: str | None
    versions: Names
    operation: Operation | None
    generations: list[Generation]
    last_swap: Result | None
    deadline: Seconds = Field(description="The drain deadline that is configured.")
    previous: str | None = Field(description="The version that a rollback goes to.")


class Worker(BaseModel):
    """A process that relays."""

    pid: int
    connections: Count


class Limits(BaseModel):
    """File descriptors: the limit in force, and the one it can be raised to."""

    descriptors: Count
    descriptors_hard: Count


class Trouble(BaseModel):
    """Something is wrong around the proxy, while traffic goes on."""

    kind: str
    message: str
    hint: str
    since: Time


class UpgradeUnderWay(BaseModel):
    """An upgrade that has not ended."""

    id: Count
    phase: str
    from_: str = Field(alias="from")
    started: Time


class Listening(BaseModel):
    """Where the admin page is, and what it takes."""

    address: str
    tls: bool
    tokens: bool


class Proxy(BaseModel):
    """The proxy itself."""

    version: str
    pid: int
    uptime: Seconds
    workers: list[Worker]
    worker_restarts: Count
    config: str
    admin: Listening | None
    stopping: bool
    limits: Limits
    trouble: list[Trouble]
    upgrade: UpgradeUnderWay | None
    last_upgrade: dict[str, Any] | None


class Status(BaseModel):
    """All that runs."""

    proxy: Proxy
    services: dict[str, Service]


class Action(BaseModel):
    """What somebody asked for and got. What else is known of it has keys of its own: version, command, operation."""

    time: Time
    action: Literal["swap", "rollback", "restart", "pause", "resume", "reload", "upgrade", "stop"]
    service: str | None
    by: By


class History(BaseModel):
    """Past operations, and who asked for what."""

    history: list[Result]
    actions: list[Action]


class Reloaded(BaseModel):
    """What a reload changed, a sentence each, and what it did not change yet or may not have been meant."""

    changes: Names
    warnings: Names


class UpgradeBegun(BaseModel):
    """An upgrade that has begun."""

    id: Count
    from_: str = Field(alias="from")
    started: Time


class Stopping(BaseModel):
    """The process that is ending."""

    pid: int
    now: bool


class Access(BaseModel):
    """What you may do here."""

    role: Literal["act", "read"]
    right: str = Field(description='By what: "socket", "loopback", "token" or "page".')
    commands: bool = Field(description="Whether a swap may bring a command.")


class Description(BaseModel):
    """An OpenAPI document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]


class Problem(BaseModel):
    """One thing that is wrong with a config."""

    file: str
    line: Count
    column: Count
    key: str
    message: str
    hint: str


class ErrorDetails(BaseModel):
    """What went wrong, and what to do."""

    code: str
    message: str
    hint: str
    problems: list[Problem] | None = Field(default=None, description="Where a config is not valid.")
    output: Names | None = Field(default=None, description="What a backend printed last.")


class Error(BaseModel):
    """The form of every error."""

    error: ErrorDetails
