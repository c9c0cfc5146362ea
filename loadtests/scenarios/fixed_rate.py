"""Latency at a fixed rate, which is the same for all relays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtests.model import Column, Scenario
from loadtests.scenarios.clients import client, measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.model import Backends, Running, Sample

CONNECTIONS = 32
_WARM_UP = 0.5  # seconds, which do not count
_COLUMNS = (
    Column("asked", "asked/s"),
    Column("rate", "answered/s", "more"),
    Column("cpu", "CPU µs/request", "less", 1),
    Column("user", "user µs", "less", 1),
    Column("system", "system µs", "less", 1),
    Column("p50", "p50 µs", "less"),
    Column("p99", "p99 µs", "less"),
    Column("p999", "p99.9 µs", "less"),
    Column("errors", "errors", "less"),
)


def fixed_rate(share: float, capacity: Callable[[], float], rounds: int = 100) -> Scenario:
    """`capacity`: what the slowest peer reached in this run, in requests per second; asked for at each measurement."""
    percent = f"{share * 100:.0f}"
    return Scenario(
        name=f"fixed-{percent}",
        title=f"A fixed rate, {percent} % of what the slowest peer can do, {CONNECTIONS} kept connections",
        columns=_COLUMNS,
        run=load(lambda: share * capacity()),
        rounds=rounds,
        about=(
            f"Requests are due evenly spaced, on {CONNECTIONS} connections in turn, whatever becomes of them; latency "
            "counts from when a request was due, so it is corrected for coordinated omission."
        ),
    )


def load(rate: Callable[[], float]) -> Callable[[Running, Backends, float], Sample]:
    """What a Scenario runs. The sample has "late" and "client" too: whether the client kept up (open_loop.py)."""

    def run(running: Running, backends: Backends, seconds: float) -> Sample:
        asked, port = rate(), running.ports[backends.web]
        if not asked > 0:
            raise LookupError("the capacity of no peer is known")
        options = ("--connections", CONNECTIONS, "--seconds", seconds, "--warm-up", _WARM_UP)
        with client("open_loop", port, asked, *options) as ready:
            return {"asked": asked} | measure(running, ready)

    return run
