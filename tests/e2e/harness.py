"""A real proxy as a real process, and clients that count what goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Bounds how long a test may take when something is broken; nothing waits this long when all is well.
PATIENCE = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], Any], *, within: float = PATIENCE, what: str = "") -> Any:
    """Wait for what has no event to wait for: another process's doing, seen from outside."""
    deadline = time.monotonic() + within
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within} s: {what or condition}")
        time.sleep(0.02)


class Proxy:
    """`proxyctl run` on a config in `folder`; use as a context manager: nothing is left when it ends."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.config = folder / "proxy.toml"
        self.state_dir = folder / "state"
        self.socket = folder / "control.sock"
        self.log = folder / "proxy.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.write(config)

    def write(self, config: str) -> None:
        """(Over)write the config; state_dir and the control socket are put in front."""
        head = f'state_dir = "{self.state_dir}"\n'
        tail = f'\n[admin]\nsocket = "{self.socket}"\n'
        self.config.write_text(head + config + tail)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def start(self, *, wait: bool = True) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "proxy.cli", "run", str(self.config)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until every service has a healthy active generation."""

        def ready() -> bool:
            assert self.process
            if self.process.poll() is not None:
                pytest.fail(f"the proxy exited with {self.process.returncode}:\n{self.log_text()}")
            with contextlib.suppress(OSError, ValueError):
                return self.request("GET", "/readyz")[0] == 200
            return False

        eventually(ready, what="ready")

    def kill(self) -> None:
        """End it however it takes, and what it started."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def ctl(self, *arguments: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        """Run `proxyctl VERB …` against this proxy."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "proxy.cli", *arguments],
            env={**os.environ, "PROXYCTL_SOCKET": str(self.socket)},
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=timeout,
            check=False,
        )

    def ok(self, *arguments: str, timeout: float = 90) -> str:
        """Run a verb that must succeed; returns what it printed."""
        done = self.ctl(*arguments, timeout=timeout)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log_text()}"
        return done.stdout

    def swap(self, version: str, *arguments: str, timeout: float = 90) -> dict[str, Any]:
        """Swap with --json and return the result object, whatever the result."""
        done = self.ctl("swap", version, "--json", *arguments, timeout=timeout)
        lines = done.stdout.strip().splitlines()
        assert lines, f"swap printed nothing: {done.returncode} {done.stderr}"
        result: dict[str, Any] = json.loads(lines[-1])
        assert (done.returncode == 0) == (result["result"] == "swapped"), done
        return result

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Ask the API over the control socket."""
        payload = b"" if body is None else json.dumps(body).encode()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.socket))
            head = f"{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head_text, _, content = answer.partition(b"\r\n\r\n")
        return int(head_text.split()[1]), content

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.request("GET", "/v1/status")[1])
        return status

    def service(self, name: str = "web") -> dict[str, Any]:
        service: dict[str, Any] = self.status()["services"][name]
        return service

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")[-8000:]


def fetch(port: int, path: str = "/", *, timeout: float = PATIENCE, host: str = "127.0.0.1") -> str:
    """One request on a connection of its own; returns the body. Raises OSError, or ValueError for a broken answer."""
    with socket.create_connection((host, port), timeout) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, gap, body = answer.partition(b"\r\n\r\n")
    if not gap or b" 200 " not in head.split(b"\r\n")[0]:
        raise ValueError(f"not a whole answer: {answer[:200]!r}")
    return body.decode()


@dataclass
class Answer:
    """`began` is when the connection was begun (monotonic)."""

    began: float
    body: str


@dataclass
class Load:
    """Clients that make one short connection after another until told to stop."""

    port: int
    clients: int = 8
    answers: list[Answer] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                body = fetch(self.port)
            except (OSError, ValueError) as error:
                self.errors[f"{type(error).__name__}: {error}"] += 1
            else:
                self.answers.append(Answer(began, body))

    def wait_for(self, count: int) -> None:
        """Wait until so many more answers have come."""
        target = len(self.answers) + count
        eventually(lambda: len(self.answers) >= target, what=f"{count} more answers; errors: {self.errors}")


@contextlib.contextmanager
def processes_of(marker: str) -> Iterator[Callable[[], list[int]]]:
    """Yield a function that lists the pids whose command line or environment holds `marker`, this process apart."""

    def find() -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if marker.encode() in text and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(entry.name))
        return found

    yield find
