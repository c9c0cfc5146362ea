"""Fixtures for tests of the relay: a worker, and a service in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.relay.harness import Service, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    with WorkerProcess(tmp_path) as running:
        yield running


@pytest.fixture
def service(worker: WorkerProcess, tmp_path: Path) -> Iterator[Service]:
    made = Service(worker, tmp_path)
    yield made
    made.close()
