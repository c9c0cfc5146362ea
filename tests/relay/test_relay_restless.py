"""What holds for connections holds for those that are given up and taken back all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.relay.harness import WorkerProcess
from tests.relay.test_relay_connection import *  # noqa: F403

if TYPE_CHECKING:
    from collections.abc import Iterator

del test_a_slow_reader_slows_its_sender_and_memory_stays_bounded  # noqa: F821  # packing takes time and memory itself


class Restless(WorkerProcess):
    module = "tests.relay.restless"


@pytest.fixture(scope="module")
def shared_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    with Restless(tmp_path_factory.mktemp("worker")) as running:
        yield running
