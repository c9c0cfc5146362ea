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
import math
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio

from proxy.relay.timers import Timer, Timers
from proxy.relay.transfer import Buffer

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

log = logging.getLogger(__name__)

LINGER = 0.002
TURN = 0.005
EVENTS = 128  # per poll
# Bytes of a read, and so the most that is kept of a stream whose reader is slow. A reader that takes whatever comes
# gets more at once, at half the cost: after so many full reads in a row, more than the kernel's own buffers hold. If it
# once does not take all of that, some more full reads have to show that it was an exception.
BUFFER = 128 * 1024
LARGE = 512 * 1024
STREAK = 128
REGAIN = 16
SERVED = 8  # readers of the ready list between two polls
READS = 2  # buffers for each of them

# EPOLLOUT only from the first short write on: a Unix socket would report it for whatever its peer reads.
STREAM = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
STREAM_OUT = STREAM | select.EPOLLOUT
# After these a short read does not mean that a socket is drained: an end comes behind the bytes, and a read stops at a
# byte that is marked urgent (tcp(7)).
READ_ON = select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
GONE = select.EPOLLHUP | select.EPOLLERR


class Handler(Protocol):
    """Who has the events of a descriptor."""

    def on_event(self, mask: int) -> None:
        """Handle an event, as epoll_ctl(2) has it."""
        ...

    def fail(self, error: Exception) -> None:
        """Log the error that `on_event` raised, and give up what it was about."""
        ...


class Reader(Protocol):
    """Who has bytes left to read, without an event that would say so."""

    def on_ready(self, reads: int) -> None:
        """Handle at most so many buffers."""
        ...

    def fail(self, error: Exception) -> None: ...


class Engine:
    """Sockets and who handles their events; `now` is time.monotonic() of the present pass."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._closing: list[_socket.socket] = []
        self._timers = Timers()
        self._stopped = False
        self._waiting = trio.CancelScope()
        self.ready: deque[Reader] = deque()
        self.now = time.monotonic()
        self.buffer = Buffer(LARGE)  # every read of every connection goes through this one

    # What others use

    def watch(self, fd: int, handler: Handler, mask: int) -> None:
        """Let `handler` have the events of `fd`; where somebody else had them until now, the mask stays as it was."""
        if fd not in self._handlers:
            self._epoll.register(fd, mask)
        self._handlers[fd] = handler

    def rewatch(self, fd: int, mask: int) -> None:
        self._epoll.modify(fd, mask)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor, also in the kernel: needed before closing what other processes have open too."""
        self._epoll.unregister(fd)
        del self._handlers[fd]

    def close(self, sock: _socket.socket) -> None:
        """Close a connection's socket at the end of this pass; no event reaches its handler any more.

        The kernel would take it out of the epoll set by itself, but not while another worker, which has just handed it
        over, has it open as well (epoll(7)): its events would then reach whoever gets the number next.
        """
        if self._handlers.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock.fileno())
        self._closing.append(sock)

    def sweep(self) -> None:
        """Close what is to be closed."""
        for sock in self._closing:
            sock.close()
        self._closing.clear()

    def at(self, when: float, action: Callable[[], object]) -> Timer:
        """Call `action` once, at a time of time.monotonic()."""
        return self._timers.at(when, action)

    def stop(self) -> None:
        """Let `run` return, after the present pass if there is one."""
        self._stopped = True
        self._waiting.cancel()

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
        self._waiting = trio.move_on_after(math.inf if due is None else max(0.0, due - time.monotonic()))
        with self._waiting:
            await trio.lowlevel.wait_readable(self._epoll.fileno())

    def _pass(self) -> bool:
        """Handle what is ready, waiting up to LINGER for it; return whether there was anything."""
        events = self._epoll.poll(self._patience(), EVENTS)
        self.now = now = time.monotonic()
        handlers = self._handlers
        for fd, mask in events:
            handler = handlers.get(fd)
            if handler is not None:
                try:
                    handler.on_event(mask)
                except Exception as error:  # noqa: BLE001  # a bug met by one connection is not the end of the others
                    handler.fail(error)
        busy = bool(events)
        if self.ready:
            busy = True
            self._serve_ready()
        due = self._timers.next
        if due is not None and due <= now:
            busy = True
            self._fire()
        if self._closing:
            self.sweep()
        return busy

    def _patience(self) -> float:
        """How long the next poll may wait, in seconds."""
        if self.ready:
            return 0.0
        due = self._timers.next
        return LINGER if due is None else max(0.0, min(LINGER, due - time.monotonic()))

    def _fire(self) -> None:
        try:
            self._timers.fire(self.now)
        except Exception:  # as above; the timers that are left are due in the next pass
            log.exception("a timer failed")

    def _serve_ready(self) -> None:
        until = self.now + TURN  # what one of them has may take long to look at
        for served in range(min(SERVED, len(self.ready))):
            if served and time.monotonic() >= until:
                return
            reader = self.ready.popleft()
            try:
                reader.on_ready(READS)
            except Exception as error:  # noqa: BLE001  # as above
                reader.fail(error)
