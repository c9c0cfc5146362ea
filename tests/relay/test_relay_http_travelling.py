"""What is true of a client that stays is true of one that is packed and unpacked all the time, in a real worker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.relay import test_relay_http, test_relay_http_random, test_relay_http_retry
from tests.relay.harness import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

for module in (test_relay_http, test_relay_http_random, test_relay_http_retry):
    globals().update({name: value for name, value in vars(module).items() if name.startswith("test_")})


class TravellingWorker(WorkerProcess):
    module = "tests.relay.travelling"


@pytest.fixture(scope="module")
def shared_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with TravellingWorker(tmp_path_factory.mktemp("travelling")) as running:
        assert TravellingWorker.module in Path(f"/proc/{running.pid}/cmdline").read_text()
        yield running


@pytest.fixture
def fresh_worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    with TravellingWorker(tmp_path) as running:
        yield running
