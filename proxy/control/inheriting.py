"""Generations that accept on the public listener themselves (datapath "inherit"): how one gives way to the next.

The listener is one open socket, which control, the workers (who only keep it) and each generation have. Whoever accepts
gets the next connection: while two generations do, which of them is the kernel's choice. So the old one is told to stop
as soon as the new one is ready, and lets go of the listener. What waits in the queue stays there: ours is never closed.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import trio

from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from proxy.control.backend import Backend
    from proxy.control.generation import Generation
    from proxy.core.address import Address

log = logging.getLogger(__name__)

_LOOK_AGAIN = 0.5  # seconds; connections of others end without a word
_SHARE = 0.05  # of the time may be spent on counting them


async def ended(generation: Generation, progress: Callable[[int], None], let_go: Callable[[], None]) -> None:
    """Tell it to stop, and wait until nothing of it runs. `progress` is told how many connections it has on the way,
    `let_go` is called as soon as it cannot accept any more: many only close the listener when they end.
    """
    if not generation.was_signalled:  # many servers take a second signal for "now"
        generation.say_goodbye()
        generation.changed()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_keep_counting, generation, progress)
        nursery.start_soon(_watch_listener, generation, let_go)
        await generation.died_out()
        nursery.cancel_scope.cancel()


async def _watch_listener(generation: Generation, let_go: Callable[[], None]) -> None:
    async with trio.open_nursery() as nursery:
        for backend in _backends(generation):
            nursery.start_soon(_wait_until_free, backend, generation.public_inodes())
    let_go()


async def count(generation: Generation) -> int:
    """How many connections it has, as far as the kernel shows whose they are."""
    backends = _backends(generation)
    try:
        return await trio.to_thread.run_sync(_count, backends, generation.public_addresses()) if backends else 0
    except OSError as error:  # no more descriptors, say
        log.warning("connections cannot be counted", extra=facts(generation=generation.id, reason=error.strerror))
        return 0


async def _wait_until_free(backend: Backend, listeners: Collection[int]) -> None:
    """Where that cannot be seen, until it has ended."""
    try:
        await backend.lets_go(listeners)
    except OSError as error:
        log.warning("cannot see whether the listener is held", extra=facts(pid=backend.pid, reason=error.strerror))
        await backend.exited()


async def _keep_counting(generation: Generation, progress: Callable[[int], None]) -> None:
    last = -1
    while True:
        clock = trio.current_time()
        found = await count(generation)
        if found != last:
            last = found
            progress(found)
        await trio.sleep(max(_LOOK_AGAIN, (trio.current_time() - clock) / _SHARE))


def _count(backends: Iterable[Backend], addresses: Collection[Address]) -> int:
    return sum(backend.connections(addresses) for backend in backends)


def _backends(generation: Generation) -> list[Backend]:
    return [replica.backend for replica in generation.replicas if replica.backend]


def inodes(descriptors: Iterable[int]) -> frozenset[int]:
    return frozenset(os.fstat(each).st_ino for each in descriptors)
