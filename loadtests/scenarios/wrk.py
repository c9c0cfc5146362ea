"""wrk, which makes the requests of the kept, varied and new loads, and what it reports."""

from __future__ import annotations

import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.machine import CpuMeter, find, wait_until
from loadtests.model import Column
from loadtests.scenarios.cost import cpu_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.model import Backends, Running, Sample

TURNS = 4

_PATIENCE = 15.0  # for the report, in seconds
_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6, "h": 3600e6}


def columns(what: str) -> tuple[Column, ...]:
    """`what` is done, as the titles have it: "request"."""
    return (
        Column("rate", f"{what}s/s", "more"),
        Column("cpu", f"CPU µs/{what}", "less", 1),
        Column("user", "user µs", "less", 1),
        Column("system", "system µs", "less", 1),
        Column("p50", "p50 µs", "less"),
        Column("p99", "p99 µs", "less"),
        Column("errors", "errors", "less"),
    )


def missing() -> str:
    return "" if find("wrk") else "wrk is not installed: apt-get install wrk"


def load(connections: int, path: str, *more: str) -> Callable[[Running, Backends, float], Sample]:
    """What a Scenario runs: that many connections to the web backend, each with one request at a time."""

    def run(running: Running, backends: Backends, seconds: float) -> Sample:
        url = f"http://127.0.0.1:{running.ports[backends.web]}{path}"
        meter = CpuMeter(running.pids)
        text = _wrk(seconds, f"-c{connections}", *more, url)
        spent = meter.spent()
        sample = read_report(text)
        return sample | cpu_columns(spent, sample.pop("requests"), 1e6, may_idle=running.may_idle)

    return run


def read_report(text: str) -> Sample:
    """What wrk printed, as a sample and "requests", the number of all. RuntimeError if it is no report.

    "errors" are failed requests and answers that are not 2xx or 3xx. There is no latency where nothing was answered.
    """
    requests = _number(r"(\d+) requests in", text)
    sample = {"requests": requests, "rate": _number(r"Requests/sec:\s+([\d.]+)", text), "errors": _errors(text)}
    if requests:
        sample |= {"p50": _latency("50", text), "p99": _latency("99", text)}
    return sample


def _wrk(seconds: float, *arguments: str) -> str:
    # wrk takes whole seconds only: SIGINT cuts a longer run off, on which it prints its report.
    command = [find("wrk") or "wrk", "-t1", "-d3600s", "--latency", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or _catches(process.pid, signal.SIGINT), "wrk does not begin")
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.send_signal(signal.SIGINT)
            return process.communicate(timeout=_PATIENCE)[0]
        finally:
            process.kill()


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for that signal (proc(5): SigCgt of status); before, it would just die of it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def _errors(text: str) -> float:
    failed = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return float(sum(int(count) for found in (failed, refused) if found for count in found.groups()))


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if not found:
        raise RuntimeError(f"no {pattern} in what wrk printed:\n{text}")
    return float(found[1])


def _latency(percentile: str, text: str) -> float:
    found = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s|m|h)\b", text)
    if not found:
        raise RuntimeError(f"no {percentile}% in what wrk printed:\n{text}")
    return float(found[1]) * _MICROSECONDS[found[2]]
