"""What idle connections cost: memory, and the speed and the CPU time of a busy one among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtests.machine import descriptor_limit, rss_bytes
from loadtests.model import Column, Scenario
from loadtests.scenarios.clients import client, measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.model import Backends, Running, Sample

CONNECTIONS = 10_000
_WARM_UP = 0.3  # seconds, which do not count
_RESERVE = 1000  # descriptors that a relay has for anything else
_COLUMNS = (
    Column("connections", "connections"),
    Column("memory", "KiB of memory each", "less", 2),
    Column("busy", "a busy one: rate, to alone", "more", 3),
    Column("busy_cpu", "its CPU, to alone", "less", 3),
    Column("errors", "errors", "less"),
)


def idle(connections: int = CONNECTIONS) -> Scenario:
    """`connections`: less where the limit on descriptors does not let one process relay so many."""
    count = fitting(connections, descriptor_limit())
    return Scenario(
        name="idle",
        title=f"{count:,} idle connections",
        columns=_COLUMNS,
        run=load(count),
        is_fresh=True,
        rounds=1,
        about=(
            "Each idle connection has had one response. Memory: growth of the resident memory (RSS) of the workers, "
            "without what was reserved before, and without the kernel's own. Then one busy connection, request after "
            "request: against the mean of its measurements without the others, before and after them."
        ),
    )


def fitting(connections: int, limit: int) -> int:
    """As many as asked for, if one process may have two descriptors for each; `limit` is RLIMIT_NOFILE, -1: none."""
    return connections if limit < 0 else max(1, min(connections, (limit - _RESERVE) // 2))


def load(count: int) -> Callable[[Running, Backends, float], Sample]:
    """What a Scenario runs. Errors are requests that failed, and idle connections that were closed."""

    def run(running: Running, backends: Backends, seconds: float) -> Sample:
        port = running.ports[backends.web]
        before = _busy(running, port, seconds / 2)
        rest = _resident(running)
        with client("idle_holder", port, count) as held:
            grown = _resident(running) - rest
            among = _busy(running, port, seconds)
            gone = held.go()["closed"]
        after = _busy(running, port, seconds / 2)
        errors = gone + sum(sample["errors"] for sample in (before, among, after))
        sample = {"connections": float(count), "errors": errors} | _compared(among, before, after)
        return sample | ({"memory": grown / count / 1024} if rest else {})

    return run


def _busy(running: Running, port: int, seconds: float) -> Sample:
    with client("closed_loop", port, "--connections", 1, "--seconds", seconds, "--warm-up", _WARM_UP) as ready:
        return measure(running, ready)


def _resident(running: Running) -> int:
    return rss_bytes(*running.workers())


def _compared(among: Sample, *alone: Sample) -> Sample:
    """Ratios of the rate and of the CPU time; without those that were not measured."""
    ratios: Sample = {}
    for name, column in (("busy", "rate"), ("busy_cpu", "cpu")):
        values = [sample[column] for sample in alone if sample.get(column)]
        if column in among and values:
            ratios[name] = among[column] / (sum(values) / len(values))
    return ratios
