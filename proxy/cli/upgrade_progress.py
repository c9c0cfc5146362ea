"""What is known of an upgrade from the events it has sent so far, and how it ended, in words; no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxy.cli.progress import Story
from proxy.cli.terminal import plural, took

Json = dict[str, Any]

_CONTRACT = ("from", "to", "result", "phases", "carried", "kept", "pause", "workers", "error")
_REMARKS = {
    "check": "the new code starts, reads this config and understands this state",
    "exec": "the control process runs the new code, under its old pid",
    "adopt": "it took over workers and backends, which served on meanwhile",
}


@dataclass
class UpgradeProgress(Story):
    """`workers` are the events of those that were replaced so far."""

    names = ("check", "exec", "adopt", "workers")

    workers: list[Json] = field(default_factory=list)

    def take(self, event: Json) -> bool:
        if event["type"] != "upgrade" or event["id"] != self.begun["id"]:
            return False
        if "phase" in event:
            self._take_phase(event)
        elif "worker" in event:
            self.workers.append(event)
        elif "result" in event:
            self.take_result(event["result"])
        return True

    def take_result(self, result: Json) -> None:
        """Phases that were missed, since the stream was broken, are in it."""
        for name, seconds in result["phases"].items():
            if name in self.phases or seconds:
                self._take_phase({"phase": name, "state": "end", "seconds": seconds, "time": result["finished"]})
        self.result = result

    def headline(self) -> str:
        target = f" -> {self.result['to']}" if self.result and not self.has_failed else ""
        return f"upgrade of the proxy: {self.begun['from']}{target}"

    def remark(self, name: str) -> str:
        if self.has_failed and name == next(reversed(self.phases), ""):
            return "failed"
        if name != "workers":
            return _REMARKS.get(name, "")
        known = self.result["workers"] if self.result else self.workers
        return f"{plural(len(known), 'worker')} replaced: {carried(known)}"


def carried(workers: list[Json]) -> str:
    """`120 connections carried (each without reads for at most 12ms), 3 stay with their worker until they end`."""
    count, kept = (sum(each[name] for each in workers) for name in ("carried", "kept"))
    words = f"{plural(count, 'connection')} carried"
    if count:
        words += f" (none without reads for longer than {took(max(each['pause'] for each in workers))})"
    return words + (f", {kept} {'stays' if kept == 1 else 'stay'} with the old worker to the end" if kept else "")


def contract(result: Json) -> Json:
    """The object that `--json` prints last: exactly the keys that scripts may rely on."""
    return {key: result[key] for key in _CONTRACT}


def success(result: Json) -> str:
    """`the proxy: 0.2.0 runs (before: 0.1.0); took 1.76s, 120 connections carried (…)`."""
    seconds = result["finished"] - result["started"]
    return (
        f"the proxy: {result['to']} runs (before: {result['from']}); took {took(seconds)}, {carried(result['workers'])}"
    )


def failure(result: Json) -> tuple[str, str]:
    """What went wrong, and below it what to do and what the new code printed last."""
    message = f"upgrade of the proxy from {result['from']} failed: {result['error'] or 'no reason was given'}"
    if not result["phases"].get("exec") and not result.get("is_lost"):  # there was no way back after it
        message += f" ({result['from']} serves on)"
    parts = [result["hint"]] if result.get("hint") else []
    if output := result.get("output"):
        parts.append("the new code's last lines:")
        parts += [f"  {line}" for line in output]
    return message, "\n".join(parts)
