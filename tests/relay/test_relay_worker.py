"""The worker as a process: when it leaves, what it may import, how it starts."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from proxy import wire
from proxy.relay.worker import Worker
from tests.relay.harness import PATIENCE, Control, Listener, connect, eventually, read, read_to_end, was_reset

if TYPE_CHECKING:
    from pathlib import Path

    from tests.relay.harness import Service, WorkerProcess


@pytest.fixture
def worker(fresh_worker: WorkerProcess) -> WorkerProcess:
    return fresh_worker


def test_signals_to_the_whole_group_do_not_end_a_worker_that_control_needs(
    service: Service, worker: WorkerProcess
) -> None:
    service.route()
    client, server = service.pair()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        worker.process.send_signal(number)
    for _ in range(3):
        client.sendall(b"?")
        assert read(server, 1) == b"?"
        service.control.counts("web")


def test_without_control_sigterm_ends_a_worker(worker: WorkerProcess) -> None:
    worker.control.close()
    eventually(lambda: "control is gone" in worker.logged() or None)
    worker.process.send_signal(signal.SIGHUP)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(PATIENCE) == 0


def test_exit_is_acknowledged_and_cuts_nothing_short_silently(service: Service, worker: WorkerProcess) -> None:
    service.route()
    client, server = service.pair()
    server.sendall(b"half")
    assert read(client, 4) == b"half"
    service.control.ask(wire.Exit)
    assert worker.process.wait(PATIENCE) == 0
    assert was_reset(client)
    assert was_reset(server)


def test_the_queue_of_a_shared_listener_survives_a_worker(service: Service, worker: WorkerProcess) -> None:
    service.route(max_connections=0)
    client = service.client()
    worker.kill()
    server = service.keep(service.public.accept())
    server.sendall(b"x")
    server.close()
    assert read_to_end(client) == b"x"


def test_the_soft_limit_on_descriptors_is_raised(worker: WorkerProcess) -> None:
    soft, hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


def test_a_worker_does_not_load_what_it_does_not_need() -> None:
    """It starts fast and stays small; the config's library alone would take longer than everything else."""
    code = (
        "import sys, proxy.relay.__main__\n"
        "heavy = {'pydantic', 'starlette', 'hypercorn', 'click', 'prometheus_client'}\n"
        "print([n for n in sys.modules if n.split('.')[0] in heavy])\n"
        "print(sorted({n.split('.')[1] for n in sys.modules if n.startswith('proxy.')} - {'relay', 'core', 'kernel'}))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["[]", "['errors', 'logs', 'wire']"]


async def test_a_worker_that_nobody_will_ever_need_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves nobody, and no control comes: it may have been forgotten. While it has a connection it stays."""
    monkeypatch.setattr("proxy.relay.worker.NEEDED", 0.2)
    path = tmp_path / "alone.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door, trio.fail_after(PATIENCE):
        door.bind(str(path))
        door.listen()
        async with trio.open_nursery() as nursery:
            started = trio.current_time()
            worker = Worker(door, 10)
            nursery.start_soon(worker.run)
            control = await trio.to_thread.run_sync(Control, path)
            await trio.to_thread.run_sync(control.hello)
            public, backend = Listener("127.0.0.1:0"), Listener("127.0.0.1:0")
            await trio.to_thread.run_sync(control.listen, "web", public)
            await trio.to_thread.run_sync(control.route, "web", 1, backend.address)
            client = connect(public.address)
            server = await trio.to_thread.run_sync(backend.accept)
            await trio.to_thread.run_sync(lambda: control.ask(wire.Listen, "web", remove=(public.address,)))
            await trio.sleep(0.5)
            control.close()
            await trio.sleep(0.5)
            client.sendall(b"?")
            assert await trio.to_thread.run_sync(read, server, 1) == b"?"
            for sock in (client, server, public, backend):
                sock.close()
            left_by = trio.current_time() + 1.0
        assert started + 1.0 <= trio.current_time() <= left_by


async def test_a_worker_that_has_a_listener_waits_for_the_next_control(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.relay.worker.NEEDED", 0.05)
    path = tmp_path / "alone.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door, trio.fail_after(PATIENCE):
        door.bind(str(path))
        door.listen()
        async with trio.open_nursery() as nursery:
            worker = Worker(door, 10)
            nursery.start_soon(worker.run)
            control = await trio.to_thread.run_sync(Control, path)
            public = Listener("127.0.0.1:0")
            await trio.to_thread.run_sync(control.hello)
            await trio.to_thread.run_sync(control.listen, "web", public)
            control.close()
            await trio.sleep(0.3)
            control = await trio.to_thread.run_sync(Control, path)
            await trio.to_thread.run_sync(control.hello)
            await trio.to_thread.run_sync(control.ask, wire.Exit)
        control.close()
        public.close()
