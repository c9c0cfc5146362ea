"""Responses that go on until somebody ends them: the client by leaving, or the server because it stops."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.types import Receive


@asynccontextmanager
async def while_wanted(receive: Receive, closing: trio.Event) -> AsyncIterator[None]:
    """Run the block, and break it off (going on after it) once the client is gone or `closing` is set."""
    async with trio.open_nursery() as nursery:

        async def end_after(event: Callable[[], Awaitable[None]]) -> None:
            await event()
            nursery.cancel_scope.cancel()

        nursery.start_soon(end_after, lambda: _disconnected(receive))
        nursery.start_soon(end_after, closing.wait)
        yield
        nursery.cancel_scope.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # the rest of a body that nobody wanted
