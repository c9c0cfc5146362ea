"""A lock that many may hold together, or one alone."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class SharedLock:
    """Who wants it alone waits for those that share it, and nobody new is let in meanwhile."""

    def __init__(self) -> None:
        self._alone = trio.Lock()
        self._sharing = 0
        self._none = trio.Event()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._alone:
            self._sharing += 1
        try:
            yield
        finally:
            self._sharing -= 1
            if not self._sharing:
                self._none.set()
                self._none = trio.Event()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._alone:
            while self._sharing:
                await self._none.wait()
            yield
