"""Small websocket messages, echoed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtests.model import Column, Scenario
from loadtests.scenarios.clients import client, measure

if TYPE_CHECKING:
    from loadtests.model import Backends, Running, Sample

CONNECTIONS = 64
SIZE = 64  # bytes of a message
_WARM_UP = 0.3  # seconds, which do not count
_COLUMNS = (
    Column("rate", "messages/s", "more"),
    Column("cpu", "CPU µs/message", "less", 1),
    Column("user", "user µs", "less", 1),
    Column("system", "system µs", "less", 1),
    Column("p50", "p50 µs", "less"),
    Column("p99", "p99 µs", "less"),
    Column("errors", "errors", "less"),
)


def websocket() -> Scenario:
    return Scenario(
        name="websocket",
        title=f"Websocket echo, {CONNECTIONS} connections",
        columns=_COLUMNS,
        run=_run,
        rounds=2,
        about=(
            f"Messages of {SIZE} bytes, one at a time on each connection; one message is what goes there and back. The "
            "client and the server are Python on plain epoll, so the relay is not all of what limits the rate."
        ),
    )


def _run(running: Running, backends: Backends, seconds: float) -> Sample:
    options = ("--connections", CONNECTIONS, "--websocket", SIZE, "--seconds", seconds, "--warm-up", _WARM_UP)
    with client("closed_loop", running.ports[backends.echo], *options) as ready:
        return measure(running, ready)
