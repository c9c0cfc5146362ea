from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio

from proxy.api.server import serve
from proxy.config import Admin
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
def admin_keys() -> dict[str, Any]:
    """What [admin] has beside where it listens; a test, or its class, may have it otherwise."""
    return {}


@pytest.fixture
async def api(
    control: FakeControl,
    admin_keys: dict[str, Any],
    shutdown: trio.Event,
    over: trio.Event,
    tmp_path: Path,
    nursery: trio.Nursery,
) -> AsyncIterator[Api]:
    """The real server in front of a fake control; `shutdown` ends it, and then it sets `over`."""
    path, port = tmp_path / "run" / "control.sock", free_port()
    admin = Admin(socket=path, listen=Address("127.0.0.1", port), **admin_keys)

    async def run(task_status: trio.TaskStatus[None]) -> None:
        await serve(control, admin=admin, shutdown=shutdown, task_status=task_status)
        over.set()

    await nursery.start(run)
    yield Api(path, port)
    shutdown.set()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
