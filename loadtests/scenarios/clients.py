"""The load tests' own client programs, as processes of their own, and what they cost the relay (see told.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from loadtests.machine import ROOT, CpuMeter
from loadtests.scenarios.cost import cpu_columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtests.model import Running, Sample

_MICROSECONDS = 1e6


class Client:
    """One that runs, and is connected."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._read("ready")

    def go(self) -> Sample:
        """Let it begin, and wait for what it reports. RuntimeError, with what it printed, if it fails."""
        with suppress(BrokenPipeError):
            print("go", file=self._process.stdin, flush=True)
        report: Sample = json.loads(self._read("{"))
        return report

    def _read(self, beginning: str) -> str:
        out, error = self._process.stdout, self._process.stderr
        line = out.readline() if out else ""
        if not line.startswith(beginning):
            said = error.read() if error and not line else line
            raise RuntimeError(f"{' '.join(map(str, self._process.args))}:\n{said}")  # type: ignore[arg-type]
        return line


@contextmanager
def client(module: str, *arguments: object) -> Iterator[Client]:
    """Run a module of loadtests.scenarios with these arguments until the block ends; yields when it is ready."""
    command = [sys.executable, "-m", f"loadtests.scenarios.{module}", *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT) as process:
        try:
            yield Client(process)
        finally:
            process.kill()


def measure(running: Running, ready: Client) -> Sample:
    """What the client reports, and what the relay's CPU time for each answer was, in microseconds."""
    meter = CpuMeter(running.pids)
    report = ready.go()
    return report | cpu_columns(meter.spent(), report["answered"], _MICROSECONDS, may_idle=running.may_idle)
