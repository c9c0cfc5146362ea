"""A client's socket: what it is sent, and how long it may be silent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.relay.http.stream import Stream

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

    from proxy.relay.generation import Flow
    from proxy.relay.service import Service
    from proxy.relay.timers import Timer


class ClientSocket(Stream):
    """`last` is when a byte last moved, in seconds of time.monotonic(); `address` is the client's IP address, or ""."""

    __slots__ = ("_flow", "_idle_timer", "_timer", "accepted", "address", "last", "service")

    def __init__(self, service: Service, sock: _socket.socket, address: object) -> None:
        """`address` is the client's, as accept(2) has it."""
        super().__init__(service.engine, sock)
        self.service = service
        self.address = _host_of(address)
        self.last = self.accepted = self.engine.now
        self._flow: Flow | None = None  # to which what is pending belongs
        self._timer: Timer | None = None  # of the state that the client is in
        self._idle_timer: Timer | None = None

    # Sending

    def deliver(self, data: bytes | memoryview, flow: Flow | None) -> bool:
        """Send; return False if the client is gone. `flow` has counted the bytes as unsent."""
        if self.pending:
            self.pending = memoryview(bytes(self.pending) + bytes(data))
            return True
        self._flow = flow
        try:
            sent = self.give(data)
        except OSError:
            self.gone()
            return False
        if flow is not None:
            flow.unsent -= sent
        return True

    def keep(self, rest: bytes, flow: Flow) -> None:
        """Send this when there is room for it; `flow` has counted it as unsent."""
        self._flow = flow
        self.hold(rest)

    def flush(self) -> None:
        """Send what is pending; when that is all, `flushed` is called."""
        try:
            sent = self.give_pending()
        except OSError:
            self.gone()
            return
        if sent:
            self.last = self.engine.now
            if self._flow is not None:
                self._flow.unsent -= sent
            if not self.pending:
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
