"""How an operation ended, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.cli.terminal import plural, took

if TYPE_CHECKING:
    from proxy.cli.progress import Story

Json = dict[str, Any]


def drained(phase_result: Json) -> str:
    """`12 connections finished, 1 was closed at the deadline`."""
    finished, forced = phase_result["drained"], phase_result["forced"]
    if not finished and not forced:
        return "nothing had to be drained"
    words = [f"{plural(finished, 'connection')} finished"] if finished else []
    if forced:
        words.append(f"{plural(forced, 'connection')} {'was' if forced == 1 else 'were'} closed at the deadline")
    return ", ".join(words)


def success(result: Json) -> str:
    """`web: v2 serves; took 1.76s, 12 connections finished`."""
    return f"{result['service']}: {result['to']} serves; took {took(duration(result))}, {drained(result)}"


def overlap(result: Json) -> str:
    """For how long the kernel chose which generation accepts; empty where only one did, as with most data paths."""
    seconds = result.get("overlap")
    return "" if seconds is None else f"both generations accepted for at most {took(seconds)}"


def duration(result: Json) -> float:
    """Seconds from the beginning to the end of all."""
    return float(result["finished"] - result["started"])


def failure(result: Json) -> tuple[str, str]:
    """What went wrong, and below it what to do and what the backend printed last."""
    kind, service, target, origin = (result.get(key) for key in ("kind", "service", "to", "from"))
    still = f"{origin} still serves" if origin else "nothing was serving before"
    if result["result"] == "rolled_back":
        still = f"it had been switched to, and was rolled back: {origin} serves again"
    message = f"{kind} of {service} to {target} failed: {result['error'] or 'no reason was given'} ({still})"
    parts = [result["hint"]] if result.get("hint") else []
    if output := result.get("output"):
        parts.append("the backend's last lines:")
        parts += [f"  {line}" for line in output]
    if target:
        parts.append(f"{'all of them' if output else 'what it printed'}: proxyctl logs {target} --service {service}")
    return message, "\n".join(parts)


def unknown(progress: Story) -> str:
    """What was known when the proxy went away."""
    done = [f"{name} {took(phase.seconds)}" for name, phase in progress.phases.items() if phase.seconds is not None]
    under_way = [name for name, phase in progress.phases.items() if phase.seconds is None]
    words = [f"done: {', '.join(done)}"] if done else []
    words += [f"under way: {', '.join(under_way)}"] if under_way else []
    return "; ".join(words) or "no phase had begun"
