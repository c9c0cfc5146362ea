"""What the load tests ask of the machine: a wrong figure, or a process left behind, would spoil every other one."""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import TYPE_CHECKING

import pytest

from loadtests.machine import CpuMeter, cpu_of, family, free_port, listening, running
from loadtests.started import let_go
from proxy.kernel.procfs import identify, is_running

if TYPE_CHECKING:
    from pathlib import Path

# Starts a child that ignores SIGTERM, and ends itself when it is told to.
STUBBORN_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"])
time.sleep(600)
"""


def python(program: str) -> list[str]:
    return [sys.executable, "-c", program]


def test_a_meter_counts_from_when_it_is_made_and_leaves_out_what_was_before() -> None:
    use(0.1)
    meter = CpuMeter(lambda: [os.getpid()])
    assert meter.spent().total <= 0.02
    use(0.1)
    spent = meter.spent()
    assert spent.total >= 0.05
    assert spent.total == pytest.approx(spent.user + spent.system)
    assert spent.total < cpu_of(os.getpid()).total


def use(seconds: float) -> None:
    """So much of this process's CPU time."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_processes_that_come_and_go_do_not_make_a_meter_fail(tmp_path: Path) -> None:
    pids = {os.getpid()}
    meter = CpuMeter(lambda: pids)
    with running(python("while True: pass"), log=tmp_path / "log", ready=lambda: True) as pid:
        pids |= {pid}
        while meter.spent().total < 0.1:  # of a process that was not there at first
            time.sleep(0.01)
    assert meter.spent().total < 0.1


def test_what_a_program_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(python(STUBBORN_CHILD), log=log, ready=lambda: "ready" in log.read_text()) as pid:
        everyone = {identity for identity in map(identify, family(pid)) if identity}
        assert len(everyone) == 2
    assert not [each for each in everyone if is_running(each)]


def test_a_program_that_does_not_start_says_why(tmp_path: Path) -> None:
    failing = running(python("raise SystemExit('no such option')"), log=tmp_path / "log", ready=lambda: False)
    with pytest.raises(RuntimeError, match="no such option"), failing:
        pass


def test_a_process_has_let_go_when_it_no_longer_listens() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        port = listener.getsockname()[1]
        done = let_go([os.getpid()], [port])
        assert listening([port])
        assert not done()
    assert done()
    assert not listening([port])
