"""Fixtures for tests of the relay: a worker, and a service in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy import wire
from tests.relay.harness import HttpService, Service, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def shared_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with WorkerProcess(tmp_path_factory.mktemp("worker")) as running:
        yield running


@pytest.fixture
def worker(shared_worker: WorkerProcess) -> Iterator[WorkerProcess]:
    """A worker without services. It is the same one in most tests, so it must be left as it was found."""
    before = len(shared_worker.errors())
    shared_worker.reconnect()
    yield shared_worker
    shared_worker.thaw()
    shared_worker.reconnect()
    for answer in shared_worker.control.answers(shared_worker.control.send(wire.Snapshot)):
        if isinstance(answer, wire.Counts):
            shared_worker.control.ask(wire.Forget, answer.service)
    assert shared_worker.errors()[before:] == []


@pytest.fixture
def fresh_worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    """A worker of the test's own, for what would not leave a shared one as it was."""
    with WorkerProcess(tmp_path) as running:
        yield running


@pytest.fixture
def service(worker: WorkerProcess, tmp_path: Path) -> Iterator[Service]:
    made = Service(worker, tmp_path)
    yield made
    made.close()


@pytest.fixture
def web(worker: WorkerProcess, tmp_path: Path) -> Iterator[HttpService]:
    """A service that understands HTTP."""
    made = HttpService(worker, tmp_path)
    yield made
    made.close()
