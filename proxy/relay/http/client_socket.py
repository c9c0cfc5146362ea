"""A client's socket: what it is sent, and how long it may be silent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proxy.relay.http.stream import Stream

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

    from proxy.relay.generation import Flow
    from proxy.relay.service import Service
    from proxy.relay.timers import Timer


class ClientSocket(Stream):
    """`last` is when a byte last moved, in seconds of time.monotonic(); `address` is the client's IP address, or ""."""

    __slots__ = ("_deadline", "_flow", "_idle_timer", "_timer", "accepted", "address", "last", "service")

    def __init__(self, service: Service, sock: _socket.socket, address: object) -> None:
        """`address` is the client's, as accept(2) has it."""
        super().__init__(service.engine, sock)
        self.service = service
        self.address = _host_of(address)
        self.last = self.accepted = self.engine.now
        self._flow: Flow | None = None  # to which what is pending belongs
        self._timer: Timer | None = None  # of the state that the client is in
        self._deadline = 0.0  # by when what it is for has to be over, where that is more than the timer itself says
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

    def set_timer(self, when: float, action: Callable[[], object], deadline: float = 0.0) -> None:
        """Call `action` at that time, and nothing that was to be called before. `deadline` travels with the client."""
        self.cancel_timer()
        self._deadline = deadline
        self._timer = self.engine.at(when, lambda: self._on_timer(action))

    def cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self, action: Callable[[], object]) -> None:
        self._timer = None
        action()

    def watch_idle(self, earliest: float = 0.0) -> None:
        """Set the idle timer as the policy has it now, but not for a time before `earliest`."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if timeout := self.service.idle_timeout:
            self._idle_timer = self.engine.at(max(self.last + timeout, earliest), self._on_idle)

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

    # From one worker to another

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "address": self.address,
            "accepted": self.accepted,
            "last": self.last,
            "flow": self._flow_state() if self.pending else None,
            "deadline": self._deadline if self.has_timer else 0.0,
        }

    def _flow_state(self) -> dict[str, Any] | None:
        """Name the generation that has counted what is pending; None for an answer of our own, or if it is gone."""
        for generation in self.service.generations.values():
            if generation.downstream is self._flow:
                return {"generation": generation.number, "version": generation.version}
        return None

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.address = str(state["address"])
        self.accepted = float(state["accepted"])
        self.last = float(state["last"])
        if flow := state["flow"]:
            self._flow = self.service.find_generation(flow["generation"], flow["version"]).downstream

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
