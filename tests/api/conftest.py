from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio

from proxy.api.server import serve
from proxy.core.address import Address
from tests.ask import Api
from tests.fakes import FakeControl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
def shutdown() -> trio.Event:
    return trio.Event()


@pytest.fixture
def over() -> trio.Event:
    return trio.Event()


@pytest.fixture
async def api(
    control: FakeControl, shutdown: trio.Event, over: trio.Event, tmp_path: Path, nursery: trio.Nursery
) -> AsyncIterator[Api]:
    """The real server in front of a fake control; `shutdown` ends it, and then it sets `over`."""
    path = tmp_path / "run" / "control.sock"
    listen = Address("127.0.0.1", free_port())

    async def run(task_status: trio.TaskStatus[None]) -> None:
        await serve(control, socket=path, listen=listen, shutdown=shutdown, task_status=task_status)
        over.set()

    await nursery.start(run)
    yield Api(path, listen.port)
    shutdown.set()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
