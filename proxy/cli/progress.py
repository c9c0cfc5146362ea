"""What is known of an operation from the events it has sent so far; no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from proxy.cli.terminal import plural

if TYPE_CHECKING:
    from collections.abc import Container

Json = dict[str, Any]

_CONTRACT = ("service", "from", "to", "result", "phases", "drained", "forced", "error")


@dataclass
class Drain:
    """Connections of the old generation: at the switch, now, and closed at the deadline (a Unix time)."""

    initial: int = 0
    remaining: int = 0
    forced: int = 0
    deadline: float = 0.0


@dataclass
class Phase:
    """`began` is a Unix time; `seconds` is None while it lasts."""

    began: float
    seconds: float | None = None

    def lasted(self, now: float) -> float:
        return max(0.0, now - self.began) if self.seconds is None else self.seconds


@dataclass
class Story:
    """Anything that happens in phases, in the background. `begun` is what the proxy answered when it took it on, with
    `id` and `started`; `result` the object it ended with.
    """

    names: ClassVar[tuple[str, ...]]
    seldom: ClassVar[frozenset[str]] = frozenset()  # phases that most stories do not have

    begun: Json
    phases: dict[str, Phase] = field(default_factory=dict)
    result: Json | None = None

    def take(self, event: Json) -> bool:
        """Learn from an event; return whether it was about this story."""
        raise NotImplementedError

    def take_result(self, result: Json) -> None:
        self.result = result

    def headline(self) -> str:
        raise NotImplementedError

    def remark(self, name: str) -> str:
        """What else there is to say of a phase that is over."""
        raise NotImplementedError

    def is_result(self, entry: Json | None) -> bool:
        """Whether a result is this story's (ids begin anew where a proxy has lost its state)."""
        return entry is not None and (entry.get("id"), entry.get("started")) == (
            self.begun["id"],
            self.begun["started"],
        )

    @property
    def certain(self) -> Container[str]:
        """The phases that it has been through where it has got beyond them."""
        return self.names

    @property
    def has_failed(self) -> bool:
        return self.result is not None and self.result["result"] not in {"swapped", "upgraded"}

    def _take_phase(self, event: Json) -> None:
        name = event["phase"]
        if event["state"] == "begin":
            self.phases[name] = Phase(event["time"])
        else:
            phase = self.phases.setdefault(name, Phase(event["time"]))
            phase.seconds = event["seconds"]


@dataclass
class Progress(Story):
    """Of a swap, rollback or restart."""

    names = ("start", "health", "switch", "bake", "drain", "stop")
    seldom = frozenset({"bake"})

    drain: Drain | None = None

    def take(self, event: Json) -> bool:
        if event.get("operation") != self.begun["id"]:
            return False
        kind = event["type"]
        if kind == "phase":
            self._take_phase(event)
        elif kind == "drain":
            names = ("initial", "remaining", "forced", "deadline")
            self.drain = Drain(**{name: event[name] for name in names if name in event})
        elif kind == "result":
            self.result = event["result"]
        return True

    @property
    def certain(self) -> Container[str]:
        """A rollback may begin with the switch."""
        return {"start", "health", "switch", "drain"} if self.begun.get("kind") in {"swap", "restart"} else ()

    def headline(self) -> str:
        kind, origin, target = self.begun["kind"], self.begun["from"], self.begun["to"]
        if kind == "restart" or origin is None:
            return f"{kind} {self.begun['service']}: {target}"
        return f"{kind} {self.begun['service']}: {origin} -> {target}"

    def remark(self, name: str) -> str:
        if name == "switch":
            return "new connections go to the new generation"
        if name == "drain" and self.drain and self.drain.initial:
            return f"{plural(self.drain.initial, 'connection')}, {self.drain.forced} closed at the deadline"
        return ""


def contract(result: Json) -> Json:
    """The object that `--json` prints last: exactly the keys that scripts may rely on. With datapath "inherit" it has
    one more: for how many seconds both generations may have accepted.
    """
    overlap = {} if result.get("overlap") is None else {"overlap": result["overlap"]}
    return {key: result[key] for key in _CONTRACT} | overlap
