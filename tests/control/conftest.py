"""For tests with real workers: see pools.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.control import listeners
from proxy.core.address import Address
from tests.control.pools import Backends, Lives, lives

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import trio


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Lives]:
    async with lives(tmp_path) as made:
        yield made


@pytest.fixture
def backends(nursery: trio.Nursery) -> Iterator[Backends]:
    yield Backends(nursery)
    nursery.cancel_scope.cancel()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listeners.bind(Address(host="127.0.0.1", port=0)) as opened:
        yield opened
