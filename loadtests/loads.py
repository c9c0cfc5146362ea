"""The loads: what clients do to a relay, and what it cost. wrk makes the requests, curl the download."""

from __future__ import annotations

import math
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from machine import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers import Peer

_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}
_VARIED = Path(__file__).with_name("varied.lua")


@dataclass(frozen=True)
class Result:
    """`rate`: requests or MiB per second. `cpu`: microseconds of the relay's CPU time per request or MiB."""

    rate: float
    cpu: float
    p50: float = 0.0
    p99: float = 0.0
    errors: int = 0


@dataclass(frozen=True)
class Load:
    """`rate` and `cpu` are the titles of their columns; `run` takes the peer, seconds and wrk's connections."""

    rate: str
    cpu: str
    run: Callable[[Peer, float, int], Result]
    has_latency: bool = False


def _wrk(path: str, *more: str) -> Callable[[Peer, float, int], Result]:
    def run(peer: Peer, seconds: float, connections: int) -> Result:
        # wrk takes whole seconds only; a shorter run is cut off by SIGINT, on which it prints its report.
        command = ["timeout", "--signal=INT", str(seconds), "wrk", "-t1", f"-c{connections}", "-d3600s", "--latency"]
        before = cpu_seconds(peer.pids)
        done = subprocess.run(
            [*command, *more, f"http://127.0.0.1:{peer.port}{path}"], capture_output=True, text=True, check=False
        )
        used = cpu_seconds(peer.pids) - before
        text = done.stdout + done.stderr
        failed = re.findall(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
        failed += re.findall(r"(Non-2xx or 3xx responses): (\d+)", text)
        return Result(
            rate=_number(r"Requests/sec:\s+([\d.]+)", text),
            cpu=_micros(used, _number(r"(\d+) requests in", text)),
            p50=_latency("50", text),
            p99=_latency("99", text),
            errors=sum(int(each) for group in failed for each in group if each.isdigit()),
        )

    return run


def _bulk(peer: Peer, seconds: float, _connections: int) -> Result:
    # The file is larger than what can be fetched in that time: curl's own limit ends it, with status 28.
    command = ["curl", "--silent", "--fail", "--max-time", str(seconds), "--output", "/dev/null"]
    command += ["--write-out", "%{size_download} %{speed_download}", f"http://127.0.0.1:{peer.port}/bulk"]
    before = cpu_seconds(peer.pids)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    used = cpu_seconds(peer.pids) - before
    size, speed = (float(value) for value in done.stdout.split())
    return Result(rate=speed / 2**20, cpu=_micros(used, size / 2**20), errors=int(done.returncode != 28))


LOADS = {
    "kept": Load("kept: requests/s", "CPU µs/request", _wrk("/small"), has_latency=True),
    "varied": Load("varied: requests/s", "CPU µs/request", _wrk("/", "-s", str(_VARIED)), has_latency=True),
    "new": Load("new connections/s", "CPU µs/connection", _wrk("/small", "-H", "Connection: close")),
    "bulk": Load("bulk MiB/s", "CPU µs/MiB", _bulk),
}


def _micros(seconds: float, count: float) -> float:
    """Microseconds for each; not a number where nothing came through: one broken peer must not end the whole run."""
    return seconds * 1e6 / count if count else math.nan


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if not found:
        raise RuntimeError(f"no {pattern} in what wrk printed:\n{text}")
    return float(found[1])


def _latency(percentile: str, text: str) -> float:
    """Microseconds."""
    found = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", text)
    return float(found[1]) * _MICROSECONDS[found[2]] if found else 0.0
