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
    from collections.abc import Iterable

    from proxy.control.link import Pending
    from proxy.control.worker import Worker
    from proxy.control.workers import WorkerPool

log = logging.getLogger(__name__)

# Connections are without reads meanwhile: some thousand take some tenths of a second. The worker that gives is less
# patient with the other one (proxy.relay.handover.PATIENCE), so that it is heard in time when it keeps what it has.
TIMEOUT = 10.0
AGAIN = 30.0  # until a worker too many tries once more
_ANSWER_TIMEOUT = 2.0
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
    try:
        return await hand_over(pool, old, new, nursery, patience)
    except UpgradeError:
        if not new.link.lost:  # it has got some of them
            await merge(pool, [new], nursery, patience)
        raise


async def merge(pool: WorkerPool, surplus: Iterable[Worker], nursery: trio.Nursery, patience: float) -> list[Worker]:
    """Let workers that have no place give what they have to those that have it; return those that serve on instead."""
    left = []
    for worker in surplus:
        place = pool.holder(worker.index % pool.count)
        if worker.link.lost:
            continue
        try:
            if place is None:
                raise UpgradeError("the worker in its place died, and is being replaced just now")
            await hand_over(pool, worker, place, nursery, patience)
        except UpgradeError as error:
            log.error("a worker too many stays for now", extra=facts(pid=worker.pid, reason=error.message))
            left.append(worker)
    return left


async def hand_over(pool: WorkerPool, old: Worker, new: Worker, nursery: trio.Nursery, patience: float) -> Relieved:
    """Let one worker take over what another one has. Raises UpgradeError; then each serves what it has, but a new one
    that has nothing is gone.

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
    await _check(old, new)
    try:
        giving, taking = _connect(old, new)
    except OSError as reason:  # as without descriptors; nothing has begun
        await _dismiss(new)
        raise _failed(old, new, f"they cannot be connected: {reason.strerror or reason}") from reason
    listening, old.listening, old.is_deaf = old.listening, {}, True
    had_place = pool.holder(old.index) is old
    if had_place:
        pool.vacate(old.index)  # whichever of them ends meanwhile is not replaced yet
    await _answered(giving, taking)
    taken = taking.ack
    if taken and not taken.error:
        # The taker says the same whether all was given or nothing, because the giver refused. Once that one has
        # answered this, its refusal has been heard.
        await pool.take_counts(old)
    if error := _error(giving, taking):
        await _stop_idle(pool, new, giving, taking)
        if had_place:
            pool.seat(old.index, old)
        old.listening, old.is_deaf = listening, False
        if giving.ack and not giving.ack.error:
            old.accepting = {}  # it has given all, and accepts again when it gets listeners
        await pool.tell(old)
        raise _failed(old, new, error)
    assert taken is not None  # noqa: S101 - else there was an error
    if had_place:
        pool.seat(old.index, new)
    new.is_deaf = False
    # First what the new one has, then what the old one has no more: in between a connection counts twice, and no
    # generation that is being drained seems to be empty.
    await pool.tell(new)
    await pool.tell(old)
    await pool.take_counts(old)
    kept = pool.traffic.connections(old)
    return Relieved(new.index, old.pid, new.pid, taken.carried, kept, taken.pause), giving


async def _check(old: Worker, new: Worker) -> None:
    """Raise UpgradeError where it is better not to begin; a taker that was started for this is stopped then."""
    if old.link.lost:
        await _dismiss(new)
        raise _failed(old, new, "that one has died")
    # What is given to one that hangs would hang with it. One that was just started has just answered.
    if not new.is_deaf and await _outcome(new.link.post(wire.Snapshot), _ANSWER_TIMEOUT) is None:
        raise _failed(old, new, "it does not answer just now")


async def _dismiss(new: Worker) -> None:
    """Stop a taker that was started for this, and has nothing."""
    if new.is_deaf:
        new.process.kill()
        await new.ended.wait()


async def _stop_idle(pool: WorkerPool, new: Worker, giving: Pending, taking: Pending) -> None:
    """After a failure: stop a taker that was started for this, unless it has connections. No other one is ever stopped:
    what it serves is worth more than what it could not take over.
    """
    if new.is_deaf:
        await _outcome(new.link.post(wire.Snapshot), _ANSWER_TIMEOUT)
        carried = [pending.ack.carried for pending in (giving, taking) if pending.ack]
        if not any(carried) and not pool.traffic.connections(new):
            # If it hangs, only when it is certainly gone does the old one go on with what was on the way.
            await _dismiss(new)
    if taking.done.is_set():  # else the old one may have to wait for it, and accepts meanwhile
        await _outcome(giving, TIMEOUT)


def _failed(old: Worker, new: Worker, reason: str) -> UpgradeError:
    return UpgradeError(
        f"worker {new.pid} could not take over from {old.pid}: {reason}",
        hint="" if old.link.lost else f"worker {old.pid} serves on, with its connections; the log says more",
    )


def _connect(old: Worker, new: Worker) -> tuple[Pending, Pending]:
    """Give each of them one end of a connection, and keep none: so each learns when the other one is gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return old.link.post(wire.Handover, given=ours), new.link.post(wire.TakeOver, given=theirs)


async def _answered(giving: Pending, taking: Pending) -> None:
    """Wait until the taker is through or gone, or the giver keeps what it has, or time is over."""

    async def kept(scope: trio.CancelScope) -> None:
        await giving.done.wait()
        if giving.ack and giving.ack.error:
            scope.cancel()

    with trio.move_on_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kept, nursery.cancel_scope)
            await taking.done.wait()
            nursery.cancel_scope.cancel()


def _error(giving: Pending, taking: Pending) -> str:
    """Why not everything went over, as far as they have said; empty if it did."""
    errors = [pending.ack.error for pending in (taking, giving) if pending.ack and pending.ack.error]
    return errors[0] if errors else "" if taking.ack else "it died, or did not answer"


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
