"""A client's socket: what it is sent, in what order it is read, and how long it may be silent."""

from __future__ import annotations

from socket import MSG_DONTWAIT
from typing import TYPE_CHECKING

from proxy.relay.connection import NOTHING
from proxy.relay.engine import STREAM_OUT

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

    from proxy.relay.engine import Engine
    from proxy.relay.generation import Flow
    from proxy.relay.service import Service
    from proxy.relay.timers import Timer


class ClientSocket:
    """What does not fit into the socket is kept in `pending`, up to one buffer if callers send no more meanwhile.

    `last` is when a byte last moved, in seconds of time.monotonic(); `address` is the client's IP address, or "".
    """

    __slots__ = (
        "_flow",
        "_idle_timer",
        "_is_queued",
        "_timer",
        "accepted",
        "address",
        "engine",
        "fd",
        "last",
        "pending",
        "reads_on",
        "receive",
        "send",
        "service",
        "sock",
        "watches_out",
    )

    def __init__(self, service: Service, sock: _socket.socket, address: object) -> None:
        """`address` is the client's, as accept(2) has it."""
        self.service = service
        self.engine: Engine = service.engine
        self.sock = sock
        self.fd = sock.fileno()
        self.send = sock.send
        self.receive = sock.recv_into
        self.address = _host_of(address)
        self.last = self.accepted = self.engine.now
        self.pending = NOTHING
        self.reads_on = False  # a short read does not mean that there is no more
        self.watches_out = False
        self._flow: Flow | None = None  # to which what is pending belongs
        self._is_queued = False  # in the ready list
        self._timer: Timer | None = None  # of the state that the client is in
        self._idle_timer: Timer | None = None

    def enqueue(self) -> None:
        """Go on after the next poll."""
        if not self._is_queued:
            self._is_queued = True
            self.engine.ready.append(self)

    # Sending

    def deliver(self, data: bytes | memoryview, flow: Flow | None) -> bool:
        """Send; return False if the client is gone. `flow` has counted the bytes as unsent."""
        if self.pending:
            self.pending = memoryview(bytes(self.pending) + bytes(data))
            return True
        try:
            sent = self.send(data, MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.gone()
            return False
        if flow is not None:
            flow.unsent -= sent
        if sent < len(data):
            self.keep(data[sent:], flow)
        return True

    def keep(self, rest: bytes | memoryview, flow: Flow | None) -> None:
        """Send this when there is room for it."""
        self.pending = memoryview(bytes(rest))
        self._flow = flow
        if not self.watches_out:
            self.watches_out = True
            self.engine.rewatch(self.fd, STREAM_OUT)  # an edge at once, should there be room by now

    def flush(self) -> None:
        """Send what is pending; when that is all, `flushed` is called."""
        try:
            sent = self.send(self.pending, MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self.gone()
            return
        self.last = self.engine.now
        if self._flow is not None:
            self._flow.unsent -= sent
        self.pending = self.pending[sent:]
        if not self.pending:
            self.pending = NOTHING
            self.flushed()

    # Timers

    @property
    def has_timer(self) -> bool:
        return self._timer is not None

    def set_timer(self, when: float, action: Callable[[], object]) -> None:
        """Call `action` at that time, and nothing that was to be called before."""
        self.cancel_timer()
        self._timer = self.engine.at(when, lambda: self._on_timer(action))

    def cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self, action: Callable[[], object]) -> None:
        self._timer = None
        action()

    def watch_idle(self) -> None:
        """Set the idle timer as the policy has it now."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if timeout := self.service.idle_timeout:
            self._idle_timer = self.engine.at(self.last + timeout, self._on_idle)

    def _on_idle(self) -> None:
        """The timer is not touched when bytes move; it looks when the last ones did instead."""
        self._idle_timer = None
        if self.engine.now - self.last >= self.service.idle_timeout:
            self.idled()
        if not self.is_closed:
            self.watch_idle()

    def cancel_timers(self) -> None:
        self.cancel_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    # What the client makes of it

    @property
    def is_closed(self) -> bool:
        raise NotImplementedError

    def on_ready(self, reads: int) -> None:
        """Read, at most so many buffers."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """Give up after an error of our own."""
        raise NotImplementedError

    def flushed(self) -> None:
        """The client has taken everything."""
        raise NotImplementedError

    def gone(self) -> None:
        """The client has closed its connection both ways, or reset it."""
        raise NotImplementedError

    def idled(self) -> None:
        """No byte has moved for as long as the idle timeout."""
        raise NotImplementedError


def _host_of(address: object) -> str:
    """Return the IP address of what accept(2) gave, or ""."""
    if not isinstance(address, tuple):
        return ""
    host = str(address[0]).partition("%")[0]
    return host.removeprefix("::ffff:") if "." in host else host
