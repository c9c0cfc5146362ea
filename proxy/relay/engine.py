"""The event loop that moves bytes: one epoll instance, nested in trio.

An epoll descriptor can itself be waited for, so one trio task waits for it, and calls plain functions for whatever is
ready. What the loop keeps to, and why:

- It *lingers*: before it goes back to trio it blocks in epoll for up to LINGER. A wake-up through trio costs about as
  much as relaying three messages, which a lone connection would pay on every hop.
- It goes back to trio at least every TURN, so that signals are seen under any load.
- Connections are registered once, edge-triggered. A buffer's worth is read per event; what has more waits in the ready
  list, of which a few are served between polls. So a bulk stream never starves a small one.
- A socket that is to be closed is only closed at the end of the pass: until then its number cannot be reused, and an
  event for it later in the same batch finds nobody, rather than somebody else.
"""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from typing import TYPE_CHECKING

import trio

from proxy.relay.timers import Timer, Timers

if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Callable

    from proxy.relay.connection import Side

log = logging.getLogger(__name__)

LINGER = 0.002
TURN = 0.005
EVENTS = 128  # per poll
BUFFER = 64 * 1024
SERVED = 8  # sides of the ready list between two polls
READS = 4  # buffers for each of them

EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
ENDING = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
GONE = select.EPOLLHUP | select.EPOLLERR


class Engine:
    """Sockets and who handles their events; `now` is time.monotonic() of the present pass."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], object]] = {}
        self._closing: list[Socket] = []
        self._timers = Timers()
        self._stopped = False
        self.sides: dict[int, Side] = {}
        self.ready: deque[Side] = deque()
        self.now = time.monotonic()
        self.view = memoryview(bytearray(BUFFER))  # every read of every connection goes through this one

    # What others use

    def watch(self, fd: int, handler: Callable[[int], object], mask: int = EDGES) -> None:
        """Call `handler` with the event mask for each event of `fd`, edge-triggered unless the mask says otherwise."""
        self._epoll.register(fd, mask)
        self._handlers[fd] = handler

    def rewatch(self, fd: int, mask: int) -> None:
        self._epoll.modify(fd, mask)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor, also in the kernel: needed for what other processes have open too."""
        self._epoll.unregister(fd)
        self._handlers.pop(fd, None)

    def relay(self, side: Side) -> None:
        """Hand a descriptor over to one side of a connection; it is registered here if it was not being watched."""
        if self._handlers.pop(side.fd, None) is None:
            self._epoll.register(side.fd, EDGES)
        self.sides[side.fd] = side

    def close(self, sock: Socket) -> None:
        """Close a connection's socket at the end of this pass; no event reaches its handler any more.

        Nobody else has it open, so the kernel takes it out of the epoll set by itself.
        """
        fd = sock.fileno()
        if self.sides.pop(fd, None) is None:
            self._handlers.pop(fd, None)
        self._closing.append(sock)

    def at(self, when: float, action: Callable[[], object]) -> Timer:
        """Call `action` once, at a time of time.monotonic()."""
        return self._timers.at(when, action)

    def stop(self) -> None:
        """Let `run` return after the present pass."""
        self._stopped = True

    # The loop

    async def run(self) -> None:
        """Serve events until `stop`."""
        while not self._stopped:
            await self._wait()
            back = time.monotonic() + TURN
            while self._pass() and not self._stopped:
                if self.now >= back:
                    await trio.lowlevel.checkpoint()
                    back = time.monotonic() + TURN

    async def _wait(self) -> None:
        """Wait in trio for an event or for the next timer."""
        due = self._timers.next
        with trio.move_on_after(float("inf") if due is None else max(0.0, due - time.monotonic())):
            await trio.lowlevel.wait_readable(self._epoll.fileno())

    def _pass(self) -> bool:
        """Handle what is ready, waiting up to LINGER for it; return whether there was anything."""
        events = self._epoll.poll(self._patience(), EVENTS)
        self.now = now = time.monotonic()
        sides = self.sides
        for fd, mask in events:
            side = sides.get(fd)
            try:
                if side is not None:
                    side.on_event(mask)
                elif handler := self._handlers.get(fd):
                    handler(mask)
            except Exception:
                log.exception("error in the relay")
                if side is not None:
                    side.connection.fail()
        busy = bool(events)
        if self.ready:
            busy = True
            self._serve_ready()
        due = self._timers.next
        if due is not None and due <= now:
            busy = True
            self._fire()
        if self._closing:
            for sock in self._closing:
                sock.close()
            self._closing.clear()
        return busy

    def _patience(self) -> float:
        """How long the next poll may wait, in seconds."""
        if self.ready:
            return 0.0
        due = self._timers.next
        return LINGER if due is None else max(0.0, min(LINGER, due - time.monotonic()))

    def _serve_ready(self) -> None:
        for _ in range(min(SERVED, len(self.ready))):
            side = self.ready.popleft()
            try:
                side.on_ready(READS)
            except Exception:
                log.exception("error in the relay")
                side.connection.fail()

    def _fire(self) -> None:
        try:
            self._timers.fire(self.now)
        except Exception:
            log.exception("error in a timer of the relay")
