"""One large body, down and up."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from loadtests.machine import ROOT, CpuMeter
from loadtests.model import Column, Scenario
from loadtests.scenarios.cost import cpu_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.model import Backends, Running, Sample

GIB = 1 << 30
_TURNS = 4
_COLUMNS = (
    Column("rate", "MiB/s", "more"),
    Column("cpu", "CPU s/GiB", "less", 2),
    Column("user", "user s", "less", 2),
    Column("system", "system s", "less", 2),
    Column("errors", "errors", "less"),
)


def bulk_down(size: int = GIB) -> Scenario:
    """`size`: bytes of the one response's body."""
    return Scenario(
        name="bulk-down",
        title="Bulk download",
        columns=_COLUMNS,
        run=transfer("down", size),
        turns=_TURNS,
        about="A GET with Content-Length over one connection; the server uses sendfile, the client drops what comes.",
    )


def bulk_up(size: int = GIB) -> Scenario:
    """`size`: bytes of the one request's body."""
    return Scenario(
        name="bulk-up",
        title="Bulk upload",
        columns=_COLUMNS,
        run=transfer("up", size),
        turns=_TURNS,
        about="A PUT with Content-Length over one connection; the client uses sendfile, the server drops what comes.",
    )


def transfer(direction: str, size: int) -> Callable[[Running, Backends, float], Sample]:
    """What a Scenario runs: all of `size` bytes, however long that takes; less in proportion where under 1 s is asked.

    The sample has "rate" (MiB per second), CPU seconds per GiB, and "errors": 1, and nothing else, if it failed.
    """

    def run(running: Running, backends: Backends, seconds: float) -> Sample:
        port, count = running.ports[backends.bulk], int(size * min(1.0, seconds))
        meter = CpuMeter(running.pids)
        took = _client(port, direction, count)
        spent = meter.spent()
        if took is None:
            return {"errors": 1.0}
        cost = cpu_columns(spent, count / GIB, may_idle=running.may_idle)
        return {"rate": count / 2**20 / took, "errors": 0.0} | cost

    return run


def _client(port: int, direction: str, count: int) -> float | None:
    """Seconds; None, with the reason on stderr, if not all bytes arrived."""
    command = [sys.executable, "-m", "loadtests.scenarios.bulk_client", str(port), direction, str(count)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None
