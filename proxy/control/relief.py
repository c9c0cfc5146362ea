"""A worker takes the place of another, with all the connections that it has."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import trio

from proxy import wire
from proxy.control.link import LinkLostError
from proxy.errors import UpgradeError
from proxy.logs import facts

if TYPE_CHECKING:
    from proxy.control.link import Pending
    from proxy.control.worker import Worker
    from proxy.control.workers import WorkerPool

log = logging.getLogger(__name__)

# Connections are without reads meanwhile: some thousand take some tenths of a second.
TIMEOUT = 10.0
_EXIT_TIMEOUT = 5.0


@dataclass(frozen=True)
class Relieved:
    """How it went: connections carried, and those that the old worker serves to their end; `pause` is for how many
    seconds the worst of them was not read.
    """

    worker: int
    old: int
    new: int
    carried: int
    kept: int
    pause: float

    def describe(self) -> dict[str, Any]:
        return asdict(self)


async def relieve(pool: WorkerPool, index: int, nursery: trio.Nursery, patience: float) -> Relieved:
    """Start a new worker for a place, and let it take over. The old one leaves when nothing is left with it, or after
    `patience` seconds.

    Raises OSError or ProxyError; then the old one has everything as before, or has died itself and is replaced.
    """
    old = pool.holder(index)
    if old is None:
        raise UpgradeError(f"worker {index} died, and is being replaced just now")
    new = await pool.start_beside(index)
    return await hand_over(pool, old, new, nursery, patience)


async def hand_over(pool: WorkerPool, old: Worker, new: Worker, nursery: trio.Nursery, patience: float) -> Relieved:
    """Let one worker take over what another one has. Raises UpgradeError.

    Once begun, it is not called off: what is on the way belongs to nobody. It takes TIMEOUT at the longest, or three
    times that if it fails.
    """
    with trio.CancelScope() as scope:
        async with pool.lock.alone():
            scope.shield = True
            relieved, giving = await _hand_over(pool, old, new)
    nursery.start_soon(_see_off, pool, old, giving, patience)
    extra = facts(
        worker=relieved.worker, old=old.pid, new=new.pid, carried=relieved.carried, kept=relieved.kept or None
    )
    log.info("worker relieved", extra=extra)
    return relieved


async def _hand_over(pool: WorkerPool, old: Worker, new: Worker) -> tuple[Relieved, Pending]:
    listening, old.listening, old.is_deaf = old.listening, {}, True
    had_place = pool.holder(old.index) is old
    if had_place:
        pool.seat(old.index, new)
    giving, taking = _connect(old, new)
    taken = await _outcome(taking, TIMEOUT)
    if taken is None or taken.error:
        if had_place:
            pool.vacate(old.index)  # whichever of them ends meanwhile is not replaced yet
        if taken is None or new.is_deaf:
            # Only when the new one is certainly gone does the old one go on with what was on the way.
            new.process.kill()
            await new.ended.wait()
        await _outcome(giving, TIMEOUT)
        if not old.link.lost:
            if had_place:
                pool.seat(old.index, old)
            old.listening, old.is_deaf = listening, False
            await pool.tell(old)
        elif had_place:
            pool.fill(old.index)
        reason = taken.error if taken else "it died, or did not answer"
        raise UpgradeError(
            f"worker {new.pid} could not take over from {old.pid}: {reason}",
            hint=f"worker {old.pid} serves on, with its connections; the log says more",
        )
    new.is_deaf = False
    # First what the new one has, then what the old one has no more: in between a connection counts twice, and no
    # generation that is being drained seems to be empty.
    await pool.tell(new)
    await pool.tell(old)
    await pool.take_counts(old)
    kept = pool.traffic.connections(old)
    return Relieved(new.index, old.pid, new.pid, taken.carried, kept, taken.pause), giving


def _connect(old: Worker, new: Worker) -> tuple[Pending, Pending]:
    """Give each of them one end of a connection, and keep none: so each learns when the other one is gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return old.link.post(wire.Handover, given=ours), new.link.post(wire.TakeOver, given=theirs)


async def _outcome(pending: Pending, patience: float) -> wire.Ack | None:
    with trio.move_on_after(patience), suppress(LinkLostError):
        return await pending.wait()
    return None


async def _see_off(pool: WorkerPool, old: Worker, giving: Pending, patience: float) -> None:
    """Let a worker that was relieved leave, when nothing is left with it; its last counts are kept."""
    await _outcome(giving, patience)
    await pool.take_counts(old)
    old.link.post(wire.Exit)
    with trio.move_on_after(_EXIT_TIMEOUT):
        await old.ended.wait()
    old.process.kill()
