"""What clients notice when a relay's users replace what serves."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from loadtests.machine import ROOT
from loadtests.model import Column, Scenario
from loadtests.scenarios.swap_record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loadtests.model import Backends, Running, Sample
    from loadtests.scenarios.swap_record import Answers

_WARM_UP = 0.2  # seconds in which nothing is measured
_MARGIN = 0.1  # the window begins so long before the swap
_AFTER = 0.9  # and ends so long after its begin, or with the swap, if that takes longer
_PATIENCE = 30.0
_COLUMNS = (
    Column("steady", "requests/s before", "more"),
    Column("rate", "requests/s around it", "more"),
    Column("rate_ratio", "ratio", "more", 2),
    Column("steady_p99", "p99 µs before", "less"),
    Column("p99", "p99 µs around it", "less"),
    Column("p99_ratio", "ratio", "less", 2),
    Column("new_p99", "p99 µs of new connections", "less"),
    Column("worst", "slowest, ms", "less", 1),
    Column("errors", "failed", "less"),
    Column("reconnects", "reconnects", "less"),
    Column("retries", "retries", "less"),
    Column("seconds", "swap, s", "less", 2),
)


def swap_cost(connections: int = 32) -> Scenario:
    """`connections`: those that are kept."""
    return Scenario(
        name="swap",
        title="A swap under load",
        columns=_COLUMNS,
        run=_load(connections),
        needs_swap=True,
        about=(
            f"{connections} kept connections with one request after the other, and one new connection after the "
            "other. The second around the swap (from 0.1 s before it, at least until its end) beside the time before. "
            "Failed: no answer, or not 200. Reconnects: kept connections that were closed between two requests. "
            "Retries: requests that met such a close on their way, and were sent once more. Of proxyctl steer and "
            "inherit, a backend starts and another ends in it, and tells its connections; of the others none does."
        ),
    )


class Window(NamedTuple):
    """From when to when, by time.monotonic."""

    begin: float
    end: float

    def rate(self, *groups: Answers) -> float:
        """Answers per second that came in this time."""
        ends = (began + took for each in groups for began, took in zip(each.began, each.took, strict=True))
        return sum(self.begin <= end < self.end for end in ends) / (self.end - self.begin)

    def latencies(self, answers: Answers) -> list[float]:
        """Of the requests that were on their way in this time, at least for a part of it; in seconds, sorted."""
        pairs = zip(answers.began, answers.took, strict=True)
        return sorted(took for began, took in pairs if began < self.end and began + took >= self.begin)


def figures(record: Record, steady: Window, around: Window) -> Sample:
    """The columns but "seconds"; what cannot be told of what was not answered is left out."""
    rates = steady.rate(record.kept, record.new), around.rate(record.kept, record.new)
    sample = {
        "steady": rates[0],
        "rate": rates[1],
        "errors": float(record.failures.total()),
        "reconnects": float(record.reconnects),
        "retries": float(record.retries),
    }
    before, during, new = steady.latencies(record.kept), around.latencies(record.kept), around.latencies(record.new)
    sample |= _p99("steady_p99", before) | _p99("p99", during) | _p99("new_p99", new)
    if slowest := [*during[-1:], *new[-1:]]:
        sample["worst"] = max(slowest) * 1e3
    if rates[0]:
        sample["rate_ratio"] = rates[1] / rates[0]
    if before and during:
        sample["p99_ratio"] = sample["p99"] / sample["steady_p99"]
    return sample


def _load(connections: int) -> Callable[[Running, Backends, float], Sample]:
    def run(running: Running, backends: Backends, seconds: float) -> Sample:
        if not running.swap:
            raise RuntimeError("this relay has no way to replace what serves")
        with _clients(running.ports[backends.web], connections) as clients:
            time.sleep(_WARM_UP + seconds + _MARGIN)
            begin = time.monotonic()
            running.swap()
            end = time.monotonic()
            around = Window(begin - _MARGIN, max(end, begin + _AFTER))
            time.sleep(max(0.0, around.end - end))
            output, _ = clients.communicate(timeout=_PATIENCE)  # the end of its stdin ends it
        record = Record.from_json(output)
        if record.failures.total():
            print(f"swap: failed: {dict(record.failures)}", file=sys.stderr)
        steady = Window(around.begin - seconds, around.begin)
        return figures(record, steady, around) | {"seconds": end - begin}

    return run


@contextmanager
def _clients(port: int, connections: int) -> Iterator[subprocess.Popen[str]]:
    """Yields the process once all its connections are in use. RuntimeError if there are no answers."""
    command = [sys.executable, "-m", "loadtests.scenarios.swap_client", str(port), str(connections)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout, "a pipe"
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(process.communicate()[1])
            yield process
        finally:
            process.kill()


def _p99(name: str, latencies: list[float]) -> Sample:
    """In microseconds; by nearest rank."""
    return {name: latencies[-(-len(latencies) * 99 // 100) - 1] * 1e6} if latencies else {}
