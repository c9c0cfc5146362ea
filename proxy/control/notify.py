"""What a service manager is told, and when: systemd with Type=notify, or whatever else gives us a NOTIFY_SOCKET.

`systemctl start` returns when every service has its first healthy generation. One that does not get there must not
cost the others: systemd would end the whole proxy when TimeoutStartSec is over, and again at each restart. So the
proxy asks for more time while it starts, and when a generation has had the time its config gives it, it says READY all
the same. What is wrong is in `systemctl status`, in /readyz and in the log; the healthy services go on.

A drain may take longer than TimeoutStopSec as well. More time is asked for from the event loop, like the sign of life:
a control process that hangs does not get it.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any

import trio

from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from proxy.control.events import Bus
    from proxy.kernel.sd_notify import Notifier

Json = dict[str, Any]

log = logging.getLogger(__name__)

# How much more time is asked for, and how often; both in seconds.
_MORE_TIME, _ASK_EVERY = 30, 10.0
# Events come in swarms, while a drain ends for example; connections come and go without any.
_REST, _LOOK_EVERY = 0.5, 5.0
# What fits a line of `systemctl status`, in characters.
_STATUS_LENGTH = 400
# How many messages are kept that the manager did not take. Its queue is short: net.unix.max_dgram_qlen, 10 by default.
_OWED = 16


class _Phase(Enum):
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


class ServiceManager:
    """The service manager as the proxy sees it. Without one nothing happens, in all of it."""

    def __init__(
        self, notifier: Notifier, bus: Bus, services: Callable[[], Mapping[str, Json]], *, patience: float
    ) -> None:
        """`services` returns each service as the status object has it. `patience` is for how many seconds, from `run`
        on, more time to start may be asked for.
        """
        self._notifier = notifier
        self._bus = bus
        self._services = services
        self._patience = patience
        self._phase = _Phase.STARTING
        self._reloads = 0
        self._status = ""
        self._changed = trio.Event()
        self._owed: deque[dict[str, str | int]] = deque(maxlen=_OWED)

    async def run(self) -> None:
        """Give signs of life for as long as the event loop turns, and keep STATUS up to date. Begin with it."""
        if self._notifier:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._live)
                nursery.start_soon(self._listen)
                nursery.start_soon(self._keep_status)

    async def announce(self, not_ready: Callable[[], Sequence[str]]) -> None:
        """Say READY when `not_ready` has no reasons left, or after `patience` seconds; not when the end comes first."""
        with self._bus.subscribe() as events, trio.move_on_after(self._patience) as waiting:
            while not_ready() and self._phase is _Phase.STARTING:
                try:
                    await events.receive()
                except trio.EndOfChannel:
                    return
        if self._phase is not _Phase.STARTING:
            return
        if waiting.cancelled_caught and (reasons := not_ready()):
            extra = facts(seconds=self._patience, reason="; ".join(reasons))
            log.warning("not every service is healthy yet; the start counts as done all the same", extra=extra)
        self.ready()

    def ready(self) -> None:
        self._phase = _Phase.READY
        # As process 1 of a container we do not know what our number is outside of it.
        main = {} if os.getpid() == 1 else {"MAINPID": os.getpid()}
        self._send(READY=1, **main)
        self.refresh()

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """RELOADING, and READY when the block ends, however it ends; the outermost block, if there are several.

        Type=notify-reload wants the time beside it, to tell this reload from an earlier one (systemd.service(5)). An
        exec inside the block leaves READY to the next image, which says it as after any start.
        """
        if self._phase is _Phase.READY and not self._reloads:
            self._send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        self._reloads += 1
        try:
            yield
        finally:
            self._reloads -= 1
            if self._phase is _Phase.READY and not self._reloads:
                self._send(READY=1)

    def stopping(self) -> None:
        """Say that the end has begun. It is no news if it was said before."""
        if self._phase is not _Phase.STOPPING:
            self._phase = _Phase.STOPPING
            self._send(STOPPING=1, EXTEND_TIMEOUT_USEC=_MORE_TIME * 1_000_000)
            self.refresh()

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows, if it is another than before."""
        if text != self._status:
            self._status = text
            self._send(STATUS=text)

    def refresh(self) -> None:
        """Bring that line up to date."""
        if self._notifier:
            self.status(summary(self._services()))

    def main_pid(self, pid: int) -> None:
        """Name another main process. An exec keeps the pid, and needs none of it."""
        self._send(MAINPID=pid)

    async def _live(self) -> None:
        watchdog = self._notifier.watchdog
        interval = min(watchdog / 2, _ASK_EVERY) if watchdog else _ASK_EVERY
        began = trio.current_time()
        while True:
            starting = self._phase is _Phase.STARTING and trio.current_time() < began + self._patience
            if starting or self._phase is _Phase.STOPPING:
                self._notifier.send(EXTEND_TIMEOUT_USEC=_MORE_TIME * 1_000_000)
            if watchdog:
                self._notifier.send(WATCHDOG=1)
            self._send()
            await trio.sleep(interval)

    async def _listen(self) -> None:
        with self._bus.subscribe() as events:
            async for _ in events:
                self._changed.set()

    async def _keep_status(self) -> None:
        while True:
            self._changed = trio.Event()
            self.refresh()
            await trio.sleep(_REST)
            with trio.move_on_after(_LOOK_EVERY):
                await self._changed.wait()

    def _send(self, **assignments: str | int) -> None:
        """Send this, after what the manager had no room for before; what it has no room for now comes with the next."""
        if assignments:
            self._owed.append(assignments)
        while self._owed and self._notifier.send(**self._owed[0]):
            self._owed.popleft()


def summary(services: Mapping[str, Json]) -> str:
    """One line of what the status object has in many: "web: v2 serving, 120 connections; api: v1 down".

    Where there are too many for a line, those that need looking at come first.
    """
    line = "; ".join(_summary(name, service) for name, service in services.items())
    if len(line) <= _STATUS_LENGTH:
        return line
    shown: list[str] = []
    for name in sorted(services, key=lambda name: _is_well(services[name])):
        part = _summary(name, services[name])
        if len("; ".join([*shown, part])) > _STATUS_LENGTH:
            break
        shown.append(part)
    return "; ".join([*shown, f"and {len(services) - len(shown)} more"])


def _is_well(service: Json) -> bool:
    return bool(service["state"] == "serving")


def _summary(name: str, service: Json) -> str:
    count = sum(generation["connections"] for generation in service["generations"])
    connections = "" if not count else ", 1 connection" if count == 1 else f", {count} connections"
    version = f"{service['active']} " if service["active"] else ""
    return f"{name}: {version}{service['state']}{connections}"
