"""What is known of an operation from the events it has sent so far; no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

PHASES = ("start", "health", "switch", "bake", "drain", "stop")
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


@dataclass
class Progress:
    """`begun` is what the proxy answered when it took the operation on: its id, kind, service, versions."""

    begun: Json
    phases: dict[str, Phase] = field(default_factory=dict)
    drain: Drain | None = None
    result: Json | None = None

    def take(self, event: Json) -> bool:
        """Learn from an event; return whether it was about this operation."""
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

    def is_result(self, entry: Json) -> bool:
        """Whether an entry of the history tells how this operation ended (ids begin anew with each proxy process)."""
        return (entry.get("id"), entry.get("started")) == (self.begun["id"], self.begun["started"])

    def headline(self) -> str:
        kind, origin, target = self.begun["kind"], self.begun["from"], self.begun["to"]
        if kind == "restart" or origin is None:
            return f"{kind} {self.begun['service']}: {target}"
        return f"{kind} {self.begun['service']}: {origin} -> {target}"

    def _take_phase(self, event: Json) -> None:
        name = event["phase"]
        if event["state"] == "begin":
            self.phases[name] = Phase(event["time"])
        else:
            phase = self.phases.setdefault(name, Phase(event["time"]))
            phase.seconds = event["seconds"]


def contract(result: Json) -> Json:
    """The object that `--json` prints last: exactly the keys that scripts may rely on."""
    return {key: result[key] for key in _CONTRACT}
