"""Small requests on connections that are kept: always the same one, or no two with the same head."""

from __future__ import annotations

from pathlib import Path

from loadtests.model import Scenario
from loadtests.scenarios import wrk

_VARIED = Path(__file__).parents[1] / "varied.lua"


def kept(connections: int, rounds: int = 100) -> Scenario:
    """The same small request over and over, on each connection as soon as the last one is answered."""
    return Scenario(
        name=f"kept-{connections}",
        title=f"Small requests, {connections:,} kept connection{'s' if connections > 1 else ''}",
        columns=wrk.columns("request"),
        run=wrk.load(connections, "/small"),
        rounds=rounds,
        turns=wrk.TURNS,
        missing=wrk.missing(),
        about=f"wrk -t1 -c{connections}: 128 bytes for each request, one at a time on each connection.",
    )


def varied(connections: int) -> Scenario:
    """Heads as browsers send them: for relays that remember what they have parsed."""
    return Scenario(
        name="varied",
        title=f"No two requests with the same head, {connections:,} kept connections",
        columns=wrk.columns("request"),
        run=wrk.load(connections, "/", "-s", str(_VARIED)),
        rounds=2,
        missing=wrk.missing(),
        about=f"wrk -t1 -c{connections} -s varied.lua: path, Referer and Cookie change with every request.",
    )
