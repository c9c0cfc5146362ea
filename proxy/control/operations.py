"""The swaps, rollbacks and restarts of one service: which may begin when, and what is kept of them."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from proxy.control import swap
from proxy.control.operation import Operation
from proxy.core.caller import NOBODY
from proxy.errors import (
    AlreadyActiveError,
    ConflictError,
    NoPreviousGenerationError,
    ProxyError,
    StoppingError,
    SwapInProgressError,
)
from proxy.logs import facts

if TYPE_CHECKING:
    import trio

    from proxy.control.deps import Deps
    from proxy.control.drain import Departure
    from proxy.control.service import Service
    from proxy.control.state import OperationRecord
    from proxy.core.caller import Caller
    from proxy.core.requests import SwapRequest

Story = Callable[["Service", Operation], Awaitable[None]]

log = logging.getLogger(__name__)


class Operations:
    """One operation may be starting at a time. Those that have switched go on draining side by side."""

    def __init__(self, service: Service, deps: Deps) -> None:
        self.starting: Operation | None = None
        self._service = service
        self._deps = deps
        self._running: set[Operation] = set()

    # What users ask for. Each is refused with a ProxyError, or runs on in the background.

    def swap(self, nursery: trio.Nursery, request: SwapRequest, by: Caller = NOBODY) -> Operation:
        self._admit()
        service, name = self._service, request.version
        if service.active and service.active.version.name == name:
            raise AlreadyActiveError(
                f"{name} is already active in {service.name} (generation {service.active.id})",
                hint=f"`proxyctl restart --service {service.name}` starts it anew",
            )
        catalog = service.catalog
        version = catalog.learn(name, request.command) if request.command else catalog.find(name)
        operation = self._begin(nursery, "swap", name, partial(swap.swap, version=version), request.deadline, by)
        command = shlex.join(request.command) if request.command else None
        self._note(operation, version=name, deadline=request.deadline, command=command)
        return operation

    def restart(self, nursery: trio.Nursery, deadline: float | None, by: Caller = NOBODY) -> Operation:
        self._admit()
        service = self._service
        if not service.active:
            raise ConflictError(
                f"{service.name} has no active version to restart", hint="`proxyctl swap VERSION` starts one"
            )
        running = service.active.version
        version = service.catalog.get(running.name) or running
        operation = self._begin(nursery, "restart", running.name, partial(swap.swap, version=version), deadline, by)
        self._note(operation, version=running.name, deadline=deadline)
        return operation

    def rollback(self, nursery: trio.Nursery, deadline: float | None, by: Caller = NOBODY) -> Operation:
        """Back to the previous generation itself where it still runs, else to a new one by the same recipe."""
        self._admit()
        service = self._service
        previous = service.previous
        if previous is None:
            raise NoPreviousGenerationError(
                f"{service.name} has had no other version yet, so there is nothing to roll back to",
                hint=f"`proxyctl swap VERSION`; it knows {', '.join(service.catalog.names)}",
            )
        alive = service.call_back(previous.generation)
        story: Story = (
            partial(swap.switch_back, previous=alive) if alive else partial(swap.swap, version=previous.version)
        )
        operation = self._begin(nursery, "rollback", previous.version.name, story, deadline, by)
        self._note(operation, version=previous.version.name, deadline=deadline)
        return operation

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

    def records(self) -> list[OperationRecord]:
        """What has to be remembered of those that have not ended."""
        return [operation.record() for operation in self._running if operation.result is None]

    def continued(self, record: OperationRecord) -> Operation:
        """One that an earlier control process began, and that has switched."""
        operation = Operation.resume(record, self._service.name, self._deps)
        operation.settled.set()
        return operation

    def go_on(self, nursery: trio.Nursery, operation: Operation, departure: Departure | None) -> None:
        """Go on with such a one; `departure` is that of the generation that it sees off, if that is still there."""
        self._run(nursery, operation, partial(swap.resume, departure=departure))

    def break_off(self, record: OperationRecord, error: ProxyError) -> None:
        """Tell of one that another control process had begun, and that had not got as far as the switch."""
        Operation.resume(record, self._service.name, self._deps).fail(error)

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

    def _note(self, operation: Operation, **what: Any) -> None:
        self._deps.audit.note(operation.kind, operation.by, service=operation.service, operation=operation.id, **what)

    def _begin(
        self, nursery: trio.Nursery, kind: str, target: str, story: Story, deadline: float | None, by: Caller
    ) -> Operation:
        """`deadline` None: the config's."""
        active, state = self._service.active, self._deps.state.state
        origin = active.version.name if active else None
        operation = Operation(state.next_operation, kind, self._service.name, origin, target, self._deps, by)
        state.next_operation += 1
        operation.drain_limit = self._service.settings.drain.deadline if deadline is None else deadline
        self.starting = operation
        extra = facts(service=operation.service, kind=kind, origin=origin, to=target)
        log.info("operation begins", extra=extra)
        self._run(nursery, operation, story)
        return operation

    def _run(self, nursery: trio.Nursery, operation: Operation, story: Story) -> None:
        operation.on_change = self._service.remember
        self._running.add(operation)
        self._service.remember()
        nursery.start_soon(self._perform, operation, story)

    async def _perform(self, operation: Operation, story: Story) -> None:
        """What is to happen is on file before it does: should control die on the way, the next one knows."""
        try:
            await self._deps.state.flush()
            await story(self._service, operation)
            if operation.result is None:
                operation.fail(StoppingError("the proxy was stopped before it was through"))
        finally:
            self.switched(operation)
            self._running.discard(operation)
            self._service.remember()
