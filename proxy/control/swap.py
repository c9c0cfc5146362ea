"""The swap, from start to end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from proxy.errors import StartError
from proxy.logs import facts

if TYPE_CHECKING:
    from proxy.config.settings import Version
    from proxy.control.generation import Generation
    from proxy.control.operation import Operation
    from proxy.control.service import Service

log = logging.getLogger(__name__)


async def swap(service: Service, operation: Operation, *, version: Version, drain_limit: float) -> None:
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
            with operation.phase("switch"):
                old = await service.switch(candidate)
    except StartError as error:
        candidate.set_state("failed")
        await candidate.stop()
        operation.fail(error)
        return
    finally:
        service.operations.switched(operation)
    if not operation.scope.cancelled_caught:
        await _finish(service, operation, candidate, old, drain_limit)


async def switch_back(service: Service, operation: Operation, *, previous: Generation, drain_limit: float) -> None:
    """Roll back to a generation that still runs: nothing to start, nothing to wait for."""
    operation.generation = previous.id
    try:
        with operation.phase("switch"):
            old = await service.switch(previous)
    except StartError:
        # It fell over just now; so it leaves after all, and a new one of its kind is started.
        service.depart(previous, drain_limit, None).release()
        await swap(service, operation, version=previous.version, drain_limit=drain_limit)
        return
    finally:
        service.operations.switched(operation)
    await _finish(service, operation, previous, old, drain_limit)


async def _finish(
    service: Service, operation: Operation, new: Generation, old: Generation | None, drain_limit: float
) -> None:
    """Everything after the switch: the old generation drains while the new one proves itself."""
    operation.origin = old.version.name if old else None
    if old is None:
        operation.succeed()
        return
    departure = service.depart(old, drain_limit, operation)
    bake = service.settings.drain.bake
    trouble = await _bake(service, operation, new, bake) if bake else ""
    if trouble:
        if departure.revive() and await _go_back(service, operation, new, old, trouble, drain_limit):
            return
        log.error(
            "the new version fell over inside the bake time, and there is nothing to go back to",
            extra=facts(service=service.name, version=new.version.name, reason=trouble),
        )
        if departure.revived:
            departure = service.depart(old, drain_limit, operation)
    departure.release()
    await departure.over.wait()
    operation.succeed(drained=departure.drained, forced=departure.forced, error=trouble)


async def _bake(service: Service, operation: Operation, new: Generation, seconds: float) -> str:
    """Watch the new generation; returns what went wrong, or "" when nothing did or another swap took over."""
    trouble = ""

    async def watch(scope: trio.CancelScope) -> None:
        nonlocal trouble
        trouble = await new.trouble()
        scope.cancel()

    with operation.phase("bake"), trio.move_on_after(seconds) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, scope)
            await service.replaced(new)
            scope.cancel()
    return trouble if service.active is new else ""


async def _go_back(
    service: Service, operation: Operation, new: Generation, old: Generation, reason: str, drain_limit: float
) -> bool:
    """Switch to the old generation and see the new one off; False if another switch came first or the old one died."""
    output = new.last_output()
    try:
        if not await service.undo(new, old):
            return False
    except StartError:
        return False
    log.error(
        "the new version fell over inside the bake time; went back",
        extra=facts(service=service.name, version=new.version.name, back_to=old.version.name, reason=reason),
    )
    departure = service.depart(new, drain_limit, operation)
    departure.cool()
    departure.release()
    await departure.over.wait()
    operation.roll_back(reason, output=output, drained=departure.drained, forced=departure.forced)
    return True
