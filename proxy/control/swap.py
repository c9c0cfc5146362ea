"""The swap, from start to end."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import trio

from proxy.errors import StartError
from proxy.logs import facts

if TYPE_CHECKING:
    from proxy.config.settings import Version
    from proxy.control.drain import Departure
    from proxy.control.generation import Generation
    from proxy.control.operation import Operation
    from proxy.control.service import Service

log = logging.getLogger(__name__)


async def swap(service: Service, operation: Operation, *, version: Version) -> None:
    """Start the new version, wait until it is healthy, move new connections over, let the old one finish, stop it.

    Until the switch nothing that serves is touched; when the new version does not get healthy, it alone is stopped.
    """
    candidate = service.new_generation(version)
    operation.generation = candidate.id
    old = None
    try:
        with operation.scope:
            with operation.phase("start"):
                await candidate.launched()
            with operation.phase("health"):
                await candidate.ready()
            operation.ready_at = trio.current_time()
            with operation.phase("switch"):
                old = await service.switch(candidate, operation)
    except StartError as error:
        candidate.set_state("failed")
        await candidate.stop()
        operation.fail(error)
        return
    finally:
        service.operations.switched(operation)
    if not operation.scope.cancelled_caught:
        await _finish(service, operation, candidate, old)


async def switch_back(service: Service, operation: Operation, *, previous: Generation) -> None:
    """Roll back to a generation that still runs: nothing to start, nothing to wait for."""
    operation.generation = previous.id
    try:
        with operation.phase("switch"):
            old = await service.switch(previous, operation)
    except StartError:
        # It fell over just now; so it leaves after all, and a new one of its kind is started.
        service.depart(previous, operation.drain_limit, None).release()
        await swap(service, operation, version=previous.version)
        return
    finally:
        service.operations.switched(operation)
    await _finish(service, operation, previous, old)


async def _finish(service: Service, operation: Operation, new: Generation, old: Generation | None) -> None:
    """Everything after the switch: the old generation drains while the new one proves itself."""
    operation.origin = old.version.name if old else None
    if old is None:
        operation.succeed()
        return
    await see_through(service, operation, new, service.depart(old, operation.drain_limit, operation))


async def see_through(service: Service, operation: Operation, new: Generation, departure: Departure) -> None:
    """What is left to do while the old generation is leaving; another control process may have got as far as that."""
    old = departure.generation
    trouble = await _bake(service, operation, new, operation.baked_until) if operation.baked_until else ""
    if trouble:
        if service.revive(departure) and await _go_back(service, operation, new, old, trouble):
            return
        log.error(
            "the new version fell over inside the bake time, and there is nothing to go back to",
            extra=facts(service=service.name, version=new.version.name, reason=trouble),
        )
        if departure.revived:
            departure = service.depart(old, operation.drain_limit, operation)
    departure.release()
    await departure.over.wait()
    operation.succeed(drained=departure.drained, forced=departure.forced, error=trouble)


async def _bake(service: Service, operation: Operation, new: Generation, until: float) -> str:
    """Watch the new generation; returns what went wrong, or "" when nothing did or another swap took over.

    `until` is a time of time.monotonic().
    """
    trouble = ""

    async def watch(scope: trio.CancelScope) -> None:
        nonlocal trouble
        trouble = await new.trouble()
        scope.cancel()

    with operation.phase("bake"), trio.move_on_after(max(0.0, until - time.monotonic())) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, scope)
            await service.replaced(new)
            scope.cancel()
    return trouble if service.active is new else ""


async def _go_back(service: Service, operation: Operation, new: Generation, old: Generation, reason: str) -> bool:
    """Switch to the old generation and see the new one off; False if another switch came first or the old one died."""
    output = new.last_output()
    operation.undone = reason
    await service.put_down()
    try:
        went_back = await service.undo(new, old)
    except StartError:
        went_back = False
    if not went_back:
        operation.undone = ""
        return False
    log.error(
        "the new version fell over inside the bake time; went back",
        extra=facts(service=service.name, version=new.version.name, back_to=old.version.name, reason=reason),
    )
    await see_undone(operation, service.depart(new, operation.drain_limit, operation), output)
    return True


async def see_undone(operation: Operation, departure: Departure | None, output: tuple[str, ...] = ()) -> None:
    """See the new generation off, after new connections were sent to the old one again."""
    if departure:
        departure.cool()
        departure.release()
        await departure.over.wait()
    operation.roll_back(operation.undone, output=output, drained=operation.drained, forced=operation.forced)


async def resume(service: Service, operation: Operation, *, departure: Departure | None) -> None:
    """Go on with an operation of another control process, from behind its switch.

    `departure` is that of the generation it has to see off; there is none where that is gone already.
    """
    new = service.generations.get(operation.generation or 0)
    if operation.undone and service.active and service.active.id == operation.old:
        await see_undone(operation, departure)
    elif departure is None:
        operation.succeed(drained=operation.drained, forced=operation.forced)
    elif new is None:
        departure.release()
        await departure.over.wait()
        operation.succeed(drained=departure.drained, forced=departure.forced)
    else:
        await see_through(service, operation, new, departure)
