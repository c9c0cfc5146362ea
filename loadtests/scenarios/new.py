"""A connection for every request."""

from __future__ import annotations

from loadtests.model import Scenario
from loadtests.scenarios import wrk


def new(connections: int) -> Scenario:
    """`connections` at a time."""
    return Scenario(
        name="new",
        title=f"One connection per request, {connections:,} at a time",
        columns=wrk.columns("connection"),
        run=wrk.load(connections, "/small", "-H", "Connection: close"),
        turns=wrk.TURNS,
        missing=wrk.missing(),
        about=f'wrk -t1 -c{connections} -H "Connection: close": 128 bytes for each request.',
    )
