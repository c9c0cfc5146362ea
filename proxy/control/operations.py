"""The swaps, rollbacks and restarts of one service: which may begin when, and what is kept of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from proxy.control import swap
from proxy.control.operation import Operation
from proxy.errors import (
    AlreadyActiveError,
    NoPreviousGenerationError,
    ProxyError,
    StoppingError,
    SwapInProgressError,
)
from proxy.logs import facts

if TYPE_CHECKING:
    import trio

    from proxy.control.deps import Deps
    from proxy.control.service import Service
    from proxy.core.requests import SwapRequest

Story = Callable[["Service", Operation], Awaitable[None]]

log = logging.getLogger(__name__)

_numbers = count(1)


class Operations:
    """One operation may be starting at a time. Those that have switched go on draining side by side."""

    def __init__(self, service: Service, deps: Deps) -> None:
        self.starting: Operation | None = None
        self._service = service
        self._deps = deps
        self._running: set[Operation] = set()

    # What users ask for. Each is refused with a ProxyError, or runs on in the background.

    def swap(self, nursery: trio.Nursery, request: SwapRequest) -> Operation:
        self._admit()
        service, name = self._service, request.version
        if service.active and service.active.version.name == name:
            raise AlreadyActiveError(
                f"{name} is already active in {service.name} (generation {service.active.id})",
                hint=f"`proxyctl restart --service {service.name}` starts it anew",
            )
        catalog = service.catalog
        version = catalog.learn(name, request.command) if request.command else catalog.find(name)
        story = partial(swap.swap, version=version, drain_limit=self._limit(request.deadline))
        return self._begin(nursery, "swap", name, story)

    def restart(self, nursery: trio.Nursery, deadline: float | None) -> Operation:
        self._admit()
        service = self._service
        if not service.active:
            raise ProxyError(
                f"{service.name} has no active version to restart", hint="`proxyctl swap VERSION` starts one"
            )
        running = service.active.version
        version = service.catalog.get(running.name) or running
        story = partial(swap.swap, version=version, drain_limit=self._limit(deadline))
        return self._begin(nursery, "restart", running.name, story)

    def rollback(self, nursery: trio.Nursery, deadline: float | None) -> Operation:
        """Back to the previous generation itself where it still runs, else to a new one by the same recipe."""
        self._admit()
        service, limit = self._service, self._limit(deadline)
        previous = service.previous
        if previous is None:
            raise NoPreviousGenerationError(
                f"{service.name} has had no other version yet, so there is nothing to roll back to",
                hint=f"`proxyctl swap VERSION`; it knows {', '.join(service.catalog.names)}",
            )
        alive = service.call_back(previous.generation)
        story: Story = (
            partial(swap.switch_back, previous=alive, drain_limit=limit)
            if alive
            else partial(swap.swap, version=previous.version, drain_limit=limit)
        )
        return self._begin(nursery, "rollback", previous.version.name, story)

    # What the operations themselves, and the end of the service, need.

    def switched(self, operation: Operation) -> None:
        """From here on another one may begin."""
        operation.settled.set()
        if self.starting is operation:
            self.starting = None

    def call_off(self) -> None:
        """End the one that is starting; those that have switched are left to finish."""
        if self.starting:
            self.starting.scope.cancel()

    async def settled(self) -> None:
        """Wait until none is before or in its switch; the old generation of each that has switched is leaving."""
        if self.starting:
            await self.starting.settled.wait()

    async def finished(self) -> None:
        for operation in tuple(self._running):
            await operation.wait()

    def _admit(self) -> None:
        service = self._service
        if service.stopping:
            raise StoppingError("the proxy is stopping", hint="`proxyctl run` starts it again")
        if busy := self.starting:
            seconds = time.time() - busy.began
            raise SwapInProgressError(
                f"a {busy.kind} of {service.name} to {busy.target} is under way: in phase {busy.current}, "
                f"begun {seconds:.1f} s ago",
                hint="`proxyctl status --watch` shows it; ask again when it has switched or failed",
            )

    def _limit(self, deadline: float | None) -> float:
        return self._service.settings.drain.deadline if deadline is None else deadline

    def _begin(self, nursery: trio.Nursery, kind: str, target: str, story: Story) -> Operation:
        active = self._service.active
        origin = active.version.name if active else None
        operation = Operation(next(_numbers), kind, self._service.name, origin, target, self._deps)
        self.starting = operation
        self._running.add(operation)
        nursery.start_soon(self._perform, operation, story)
        return operation

    async def _perform(self, operation: Operation, story: Story) -> None:
        extra = facts(service=operation.service, kind=operation.kind, origin=operation.origin, to=operation.target)
        log.info("operation begins", extra=extra)
        try:
            await story(self._service, operation)
            if operation.result is None:
                operation.fail(StoppingError("the proxy was stopped before it was through"))
        finally:
            self.switched(operation)
            self._running.discard(operation)
