"""A real proxy as a real process, and clients that count what goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
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
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Bounds how long a test may take when something is broken; nothing waits this long when all is well.
PATIENCE = 30.0


# Outgoing connections take their ports from above, and backends of the proxy from between. Each process of a parallel
# run (pytest-xdist) has every eighth of these, so that no two of them try the same one at the same moment.
_PORTS = range(10000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8, 20000, 8)
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody has, and that no outgoing connection takes before somebody listens on it."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            if port not in _given:
                probe.bind(("127.0.0.1", port))
                _given.add(port)
                return port


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

    default = "web"
    """The service that is meant where none is named."""

    def __init__(self, folder: Path, config: str, *, wait: bool = True, admin: str = "") -> None:
        """`config` without state_dir and [admin], of which `admin` has more keys; `wait` until it is ready."""
        self._wait = wait
        self._admin = admin
        self.folder = folder
        self.config = folder / "proxy.toml"
        self.state_dir = folder / "state"
        self.socket = folder / "control.sock"
        self.log = folder / "proxy.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.write(config)

    def write(self, config: str) -> None:
        """(Over)write the config; state_dir and the control socket are put in front.

        Unless `config` says otherwise there is one worker, whatever the machine has: each takes its time to start.
        """
        head = f'state_dir = "{self.state_dir}"\n'
        if not re.search(r"(?m)^workers *=", config):
            head += "workers = 1\n"
        tail = f'\n[admin]\nsocket = "{self.socket}"\n{self._admin}\n'
        self.config.write_text(head + config + tail)

    def __enter__(self) -> Self:
        self.start(wait=self._wait)
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
            # The second signal says "now". Two of a kind could arrive as one (signal(7)).
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGINT)
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

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin `proxyctl VERB …` against this proxy, with its output in pipes. It listens to SIGINT."""
        # A shell lets what it runs in the background ignore SIGINT, and children inherit that; not so a handler.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "proxy.cli", *arguments],
                env={**os.environ, "PROXYCTL_SOCKET": str(self.socket)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=self.folder,
            )
        finally:
            signal.signal(signal.SIGINT, before)

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
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head_text)
        if length and len(content) < int(length[1]):
            raise ValueError(f"not a whole answer: {len(content)} bytes of {int(length[1])}")
        return int(head_text.split()[1]), content

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask the API and return the status and the JSON of the answer."""
        status, content = self.request(method, path, body)
        return status, json.loads(content)

    def begin(self, verb: str, service: str = "", **body: Any) -> dict[str, Any]:
        """POST a verb of a service that must be accepted; returns what has begun (202), or with `wait` its result."""
        status, answer = self.ask("POST", f"/v1/services/{service or self.default}/{verb}", body)
        assert status in (200, 202), f"{verb}: {status} {answer}\n{self.log_text()}"
        found: dict[str, Any] = answer
        return found

    def operate(self, verb: str, service: str = "", **body: Any) -> dict[str, Any]:
        """Swap, roll back or restart over the API, wait for the end, and expect it to have gone well."""
        result = self.begin(verb, service, wait=True, **body)
        assert result["result"] == "swapped", f"{result}\n{self.log_text()}"
        return result

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.ask("GET", "/v1/status")[1]
        return status

    def service(self, name: str = "") -> dict[str, Any]:
        service: dict[str, Any] = self.status()["services"][name or self.default]
        return service

    def generation(self, number: int, name: str = "") -> dict[str, Any] | None:
        """One generation of a service as `status` has it; None when it is gone."""
        found = (each for each in self.service(name)["generations"] if each["id"] == number)
        return next(found, None)

    def active(self, name: str = "") -> dict[str, Any]:
        """The active generation."""
        states = {each["state"]: each for each in self.service(name)["generations"]}
        assert "active" in states, states
        active: dict[str, Any] = states["active"]
        return active

    def pids(self, name: str = "") -> list[int]:
        """The backend processes of the active generation, by replica."""
        return [replica["pid"] for replica in self.active(name)["replicas"]]

    def workers(self) -> list[int]:
        return [worker["pid"] for worker in self.status()["proxy"]["workers"]]

    def metrics(self) -> Metrics:
        return Metrics(self.request("GET", "/metrics")[1].decode())

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")[-8000:]


class Metrics:
    """A scrape: values by name and labels."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.families = {family.name: family for family in text_string_to_metric_families(page)}
        samples = (sample for family in self.families.values() for sample in family.samples)
        self.values = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}

    def get(self, name: str, **labels: str) -> float | None:
        """The one value of this name that has these labels; None when there is none."""
        wanted = set(labels.items())
        found = [value for (of, has), value in self.values.items() if of == name and wanted <= set(has)]
        assert len(found) < 2, f"{name} {labels}: {found}"
        return found[0] if found else None


class Events:
    """The event stream, collected from the moment it is entered; use as a context manager."""

    def __init__(self, proxy: Proxy) -> None:
        self.seen: list[tuple[float, dict[str, Any]]] = []
        """When each event arrived (monotonic), and the event."""
        self._arrived = threading.Condition()
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(proxy.socket))
        self._stream = self._connection.makefile("rb")
        self._thread = threading.Thread(target=self._collect)

    def __enter__(self) -> Self:
        self._connection.sendall(b"GET /v1/events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        while self._stream.readline().strip():
            pass  # once the head has come, nothing is missed
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._stream.close()
        self._connection.close()

    def _collect(self) -> None:
        for line in self._stream:
            if line.startswith(b"data: "):
                with self._arrived:
                    self.seen.append((time.monotonic(), json.loads(line[6:])))
                    self._arrived.notify_all()

    def wait(self, within: float = PATIENCE, **values: Any) -> dict[str, Any]:
        """Wait for an event that has these values, and return the first; those that have come already count."""

        def found() -> dict[str, Any] | None:
            return next((event for _, event in self.seen if values.items() <= event.items()), None)

        with self._arrived:
            event = self._arrived.wait_for(found, within)
        assert event, f"no event {values} within {within} s; seen: {[event for _, event in self.seen]}"
        return event


class Held:
    """A client that stays connected and asks again and again; a reset is an OSError, an end a ValueError."""

    def __init__(
        self, port: int = 0, *, host: str = "127.0.0.1", path: Path | None = None, patient: bool = False
    ) -> None:
        """`patient`: wait until somebody listens."""
        if patient:
            self.socket = eventually(lambda: _connect(host, port), what=f"somebody listens on {port}")
        elif path:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(str(path))
        else:
            self.socket = socket.create_connection((host, port))
        self.socket.settimeout(PATIENCE)
        self._lines = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self.socket.close()

    def ask(self) -> str:
        """One request and its answer."""
        self.send()
        return self.answer()

    def send(self) -> None:
        self.socket.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def answer(self) -> str:
        if not self._lines.readline():
            raise ValueError("the connection has ended")
        headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(self._lines.readline, b"\r\n"))
        return self._lines.read(int(headers["content-length"])).decode()

    def has_answer(self, within: float = 0.3) -> bool:
        """Whether anything comes, or the connection ends, within so many seconds."""
        return bool(select.select([self.socket], [], [], within)[0])

    def rest(self) -> bytes:
        """Everything until the end of the stream; OSError if that is a reset."""
        return self._lines.read()


@contextlib.contextmanager
def held(port: int, count: int) -> Iterator[list[Held]]:
    """So many clients that stay, each of them with its backend."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Held(port)) for _ in range(count)]
        for client in clients:
            client.ask()
        yield clients


@contextlib.contextmanager
def without_answer(port: int) -> Iterator[Held]:
    """A client that has sent a request and waits; it comes again until it is not served at once."""

    def try_once() -> Held | None:
        client = Held(port)
        client.send()
        if not client.has_answer():
            return client
        client.close()
        return None

    with eventually(try_once, what="a client waits") as client:
        yield client


def _connect(host: str, port: int) -> socket.socket | None:
    with contextlib.suppress(ConnectionRefusedError):
        return socket.create_connection((host, port))
    return None


def is_alive(pid: int) -> bool:
    """Whether a process is there, a zombie included."""
    return Path(f"/proc/{pid}").exists()


def fetch(port: int, path: str = "/", *, timeout: float = PATIENCE, host: str = "127.0.0.1") -> str:
    """One request on a connection of its own; returns the body. Raises OSError, or ValueError for a broken answer."""
    with socket.create_connection((host, port), timeout) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, gap, body = answer.partition(b"\r\n\r\n")
    if not gap or b" 200 " not in head.split(b"\r\n")[0]:
        raise ValueError(f"not a whole answer: {answer[:200]!r}")
    return body.decode()


@dataclass(frozen=True)
class Answer:
    """`began` is when the connection was begun, `ended` when the answer was there (monotonic)."""

    began: float
    ended: float
    body: str

    @property
    def version(self) -> str:
        return self.body.split()[0]

    @property
    def generation(self) -> int:
        return int(self.body.split()[1])


@dataclass
class Load:
    """Clients that make one short connection after another until told to stop."""

    port: int
    clients: int = 8
    rest: float = 0.01
    """Seconds between two connections of a client: the machine has other things to do as well."""
    answers: list[Answer] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[float, str]] = field(default_factory=list)
    """When each connection that failed was begun (monotonic), and how it failed."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.rest):
            began = time.monotonic()
            try:
                body = fetch(self.port)
            except (OSError, ValueError) as error:
                self._failed(began, error)
            else:
                self.answers.append(Answer(began, time.monotonic(), body))

    def _failed(self, began: float, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        self.errors[text] += 1
        self.failures.append((began, text))

    def failed_since(self, moment: float) -> list[str]:
        """How connections failed that were begun after a moment (monotonic)."""
        return [error for began, error in self.failures if began > moment]

    def wait_for(self, count: int) -> None:
        """Wait until so many more answers have come."""
        target = len(self.answers) + count
        eventually(lambda: len(self.answers) >= target, what=f"{count} more answers; errors: {self.errors}")


def kill(pid: int) -> float:
    """Kill a process and return when all its threads had ended, and so its sockets closed (monotonic)."""
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [])
    finally:
        os.close(descriptor)
    return time.monotonic()


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
