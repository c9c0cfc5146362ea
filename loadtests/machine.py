"""What the load tests need of the machine: free ports, programs that run and end with a test, and what they cost."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_TICKS = os.sysconf("SC_CLK_TCK")
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_PATIENCE = 15.0


def find(program: str) -> str | None:
    """A program's path; Debian keeps daemons where an ordinary user's PATH does not look."""
    return shutil.which(program, path=_PATH)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str], *, log: Path, ready: Callable[[], bool]) -> Iterator[int]:
    """Run a program until the block ends; yields its pid once `ready`. RuntimeError, with its log, if that fails."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} does not serve:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    """Whether a small HTTP request gets through."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/small", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def family(pid: int) -> set[int]:
    """A process and all that descend from it."""
    parents = {int(entry.name): _parent(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time these processes have used so far (proc(5): fields 14 and 15 of stat); 10 ms steps."""
    return sum(sum(int(ticks) for ticks in _stat(pid)[11:13]) for pid in pids) / _TICKS


def rss_bytes(*pids: int) -> int:
    """Resident memory; what processes share counts in each."""
    return sum(int(_stat(pid)[21]) for pid in pids) * os.sysconf("SC_PAGE_SIZE")


def raise_descriptor_limit() -> None:
    """To the most that is allowed: one process holds both ends of many connections; what it starts inherits this."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def unread(port: int) -> tuple[int, bool]:
    """Of a server on 127.0.0.1: how many connections it has, and whether bytes wait that it has not read.

    From /proc/net/tcp (proc(5)): there, for a connection, the receive queue is bytes, for the listener it is
    connections that wait to be accepted. State 1 is established.
    """
    rows = [line.split() for line in _lines("/proc/net/tcp")[1:]]
    ours = [row for row in rows if row[1].endswith(f":{port:04X}")]
    established = [row for row in ours if row[3] == "01"]
    return len(established), any(int(row[4].partition(":")[2], 16) for row in ours)


def conditions() -> str:
    """One line that says where numbers come from."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    usable = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return (
        f"{time.strftime('%Y-%m-%d %H:%M %Z')}; {usable} x {model}; Linux {platform.release()}; "
        f"Python {platform.python_version()}; load average before: {load:.2f}"
    )


def version_of(command: Sequence[str]) -> str:
    """The first line a program prints about itself."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().partition("\n")[0]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; the second, the name, may hold spaces and parentheses."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _parent(entry: Path) -> int:
    try:
        return int(_stat(int(entry.name))[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
