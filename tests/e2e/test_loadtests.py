"""The load tests are run by hand, and rarely: these keep them from rotting in between."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.tools import missing, need

FOLDER = Path(__file__).parents[2] / "loadtests"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(FOLDER / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_benchmark_measures_every_peer() -> None:
    need("nginx", package="nginx-light")
    need("curl", package="curl")
    need("wrk", package="wrk")
    need("haproxy", package="haproxy")
    if not Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists():
        missing("nginx has no stream module: apt-get install libnginx-mod-stream")
    rows = re.findall(
        r"^\| (\w.*?) \| ([\d,]+) .* \| (\d+) \|$", run("bench.py", "--quick", "--seconds=0.2"), re.MULTILINE
    )
    assert [name for name, _, _ in rows] == [
        "direct",
        "proxyctl, 1",
        "proxyctl, 2",
        "HAProxy TCP, 1",
        "HAProxy TCP, 2",
        "nginx stream, 1",
        "nginx stream, 2",
    ]
    for name, rate, errors in rows:
        assert int(rate.replace(",", "")) > 0, name
        assert int(errors) == 0, name


def test_the_memory_report_has_every_figure() -> None:
    report = run("memory.py", "--connections=50", "--status=1")
    figures = re.findall(r"^(\D+): +([\d.]+) (MiB|ms)", report.replace("1,000 idle", "idle"), re.MULTILINE)
    assert [name for name, _, _ in figures] == [
        "control process",
        "a worker, idle",
        "idle connections",
        "CPU of `proxyctl status`",
    ]
