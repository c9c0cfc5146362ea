"""What a request and a connection may cost: in system calls and allocations, which no noise on the machine changes.

Times are measured side by side with others by `python -m loadtests`; these are here so that nothing creeps in between.
A change that makes one of them fail either costs something, or has found how to save: then the limit follows.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy import wire
from proxy.relay import transfer
from tests.relay.harness import Service, WorkerProcess, read
from tests.tools import missing, need

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

COUNT = 200
REQUEST = b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST_REQUEST = b"GET /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n" + b"x" * 128
LAST_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 128\r\nConnection: close\r\n\r\n" + b"x" * 128
# How often a worker waits, and looks after its listeners meanwhile, depends on how busy the machine is.
WAITING = {"epoll_wait", "epoll_pwait", "accept4"}
OCCASIONAL = 20

HERE = Path(__file__).parent


@contextmanager
def calls_of(worker: WorkerProcess, folder: Path) -> Iterator[dict[str, int]]:
    """Counts system calls by name, but for WAITING; the dictionary is filled when the block ends."""
    output = folder / "strace"
    command = [
        need("strace", package="strace"),
        "-f",
        "-c",
        "-U",
        "calls,name",
        "-o",
        str(output),
        "-p",
        str(worker.pid),
    ]
    calls: dict[str, int] = {}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        first = strace.stderr.readline()
        if "attached" not in first:
            strace.wait()
            missing(f"strace cannot look at a process here: {first.strip()}")
        try:
            yield calls
        finally:
            strace.send_signal(signal.SIGINT)
            strace.wait(20)
    for number, name in re.findall(r"^\s*(\d+) (\w+)$", output.read_text(), re.MULTILINE):
        calls[name] = int(number)
    calls.pop("total", None)
    for name in WAITING:
        calls.pop(name, None)


def exchange(client: socket.socket, backend: socket.socket, request: bytes, response: bytes) -> None:
    client.sendall(request)
    while not backend.recv(65536).endswith(b"\r\n\r\n"):
        pass
    backend.sendall(response)
    read(client, len(response))


@pytest.mark.parametrize("http", [None, wire.Http()], ids=["tcp", "http"])
def test_a_kept_request_costs_two_reads_and_two_writes(
    fresh_worker: WorkerProcess, tmp_path: Path, http: wire.Http | None
) -> None:
    """And what waits for them, which many connections at once share."""
    service = Service(fresh_worker, tmp_path)
    service.route(http=http)
    client = service.client()
    client.sendall(REQUEST)
    with service.backend.accept() as backend:
        backend.recv(65536)
        backend.sendall(RESPONSE)
        read(client, len(RESPONSE))
        with calls_of(fresh_worker, tmp_path) as calls:
            for _ in range(COUNT):
                exchange(client, backend, REQUEST, RESPONSE)
    assert calls["recvfrom"] <= 2 * COUNT, calls
    assert calls["sendto"] <= 2 * COUNT, calls
    assert sum(calls.values()) <= 4 * COUNT + OCCASIONAL, calls
    service.close()


@pytest.mark.parametrize(("http", "most"), [(None, 20), (wire.Http(), 17)], ids=["tcp", "http"])
def test_a_connection_costs_no_more_system_calls_than_it_has_to(
    fresh_worker: WorkerProcess, tmp_path: Path, http: wire.Http | None, most: int
) -> None:
    service = Service(fresh_worker, tmp_path)
    service.route(http=http)
    visit(service)
    with calls_of(fresh_worker, tmp_path) as calls:
        for _ in range(COUNT):
            visit(service)
    assert sum(calls.values()) <= most * COUNT + OCCASIONAL, calls
    service.close()


def visit(service: Service) -> None:
    """One request on a connection of its own, which the backend closes."""
    client = service.client()
    client.sendall(LAST_REQUEST)
    with service.backend.accept() as backend:
        while not backend.recv(65536).endswith(b"\r\n\r\n"):
            pass
        backend.sendall(LAST_RESPONSE)
    read(client, len(LAST_RESPONSE))
    assert client.recv(1) == b""
    client.close()


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], float]:
    """How many allocations a kept request costs."""
    library = tmp_path_factory.mktemp("mallocs") / "count_mallocs.so"
    compiler = need("cc", package="gcc")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", str(HERE / "count_mallocs.c"), "-o", str(library)], check=True)

    def count(protocol: str) -> float:
        done = subprocess.run(
            [sys.executable, "-m", "tests.relay.allocations", protocol],
            cwd=HERE.parents[1],
            env=os.environ | {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return float(done.stdout)

    return count


@pytest.mark.parametrize(("protocol", "compiled", "plain"), [("tcp", 13, 15), ("http", 20, 25)], ids=["tcp", "http"])
def test_a_kept_request_allocates_next_to_nothing(
    counting: Callable[[str], float], protocol: str, compiled: float, plain: float
) -> None:
    assert counting(protocol) <= (compiled if transfer.IS_COMPILED else plain)
