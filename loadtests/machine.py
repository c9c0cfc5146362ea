"""What the load tests need of the machine: free ports, programs that run and end with a test, and what they cost."""

from __future__ import annotations

import os
import platform
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from proxy.kernel.procfs import descendants, identify, is_running, processes
from proxy.kernel.sock_diag import tcp_listeners

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROOT = Path(__file__).parents[1]  # the checkout: what runs as `python -m loadtests.…` has to start here

_TICKS = os.sysconf("SC_CLK_TCK")
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_PATIENCE = 40.0
_HURRY = 5.0  # after it a program is told once more: to some a second SIGTERM means now
_STEP = 0.01
_FIRST_PORT = 10_000


def find(program: str) -> str | None:
    """A program's path; Debian keeps daemons where an ordinary user's PATH does not look."""
    return shutil.which(program, path=_PATH)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that no outgoing connection gets before it is used."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(_FIRST_PORT, max(first, 2 * _FIRST_PORT))
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


class Cpu(NamedTuple):
    """Seconds of CPU time, as /proc tells them: in steps of 10 ms."""

    user: float
    system: float

    @property
    def total(self) -> float:
        return self.user + self.system


class CpuMeter:
    """Counts from when it is made. Processes may come and go meanwhile: what has ended by `spent` is not in it."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        """`pids`: whose time is counted, asked again each time; `Running.pids`."""
        self._pids = pids
        self._before = {pid: cpu_of(pid) for pid in pids()}

    def spent(self) -> Cpu:
        user = system = 0.0
        for pid in self._pids():
            now, before = cpu_of(pid), self._before.get(pid, Cpu(0.0, 0.0))
            user += max(0.0, now.user - before.user)
            system += max(0.0, now.system - before.system)
        return Cpu(user, system)


def cpu_of(pid: int) -> Cpu:
    """User and system time a process has used so far (proc(5): fields 14 and 15 of stat); nothing if it is gone."""
    try:
        user, system = _stat(pid)[11:13]
    except (FileNotFoundError, ProcessLookupError):
        return Cpu(0.0, 0.0)
    return Cpu(int(user) / _TICKS, int(system) / _TICKS)


@contextmanager
def running(command: Sequence[str], *, log: Path, ready: Callable[[], bool]) -> Iterator[int]:
    """Run a program until the block ends; yields its pid once `ready`. RuntimeError, with its log, if that fails.

    It starts in the checkout's root, in a session of its own: Ctrl-C is for the load test, which then ends it in order.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT, start_new_session=True
        )
    try:
        what = f"{' '.join(command)} does not serve"
        wait_until(lambda: process.poll() is not None or ready(), what, log)
        if process.poll() is not None:
            raise RuntimeError(f"{what}:\n{_tail(log)}")
        yield process.pid
    finally:
        _end(process)


def wait_until(condition: Callable[[], bool], what: str, log: Path | None = None, patience: float = _PATIENCE) -> None:
    """RuntimeError with `what`, and the end of the log, if it does not come true in time, in seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}{f' after {patience:g} s'}:\n{_tail(log) if log else ''}")
        time.sleep(_STEP)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM; then nothing of it may be left, whatever it thinks about its children."""
    identities = [identify(pid) for pid in family(process.pid)]
    for patience in (_HURRY, _PATIENCE):
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    left = [identity for identity in identities if identity and is_running(identity)]
    for identity in left:
        with suppress(ProcessLookupError):
            os.kill(identity.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(map(is_running, left)), f"{left} do not end by SIGKILL")


def answers(port: int) -> bool:
    """Whether a small HTTP request gets through."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/small", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def family(pid: int) -> set[int]:
    """A process and all that descend from it."""
    return descendants(processes(), [pid])


def rss_bytes(*pids: int) -> int:
    """Resident memory; what processes share counts in each."""
    return sum(int(_stat(pid)[21]) for pid in pids) * os.sysconf("SC_PAGE_SIZE")


def listening(ports: Iterable[int]) -> set[int]:
    """The inodes of the sockets that listen on these ports."""
    return {listener.inode for port in ports for listener in tcp_listeners(port)}


def descriptor_limit() -> int:
    """The most descriptors that a process can have here: the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


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


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
