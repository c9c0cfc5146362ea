"""One of the two sockets of an HTTP conversation: what does not fit into it is kept, up to what its owner gives it."""

from __future__ import annotations

from errno import EAGAIN
from typing import TYPE_CHECKING, Any

from proxy.core.http.body import bytes_of
from proxy.relay.connection import NOTHING
from proxy.relay.engine import BUFFER, LARGE, REGAIN, STREAK, STREAM, STREAM_OUT
from proxy.relay.transfer import NOBODY, handle_of, send

if TYPE_CHECKING:
    import _socket

    from proxy.relay.engine import Engine

# Seconds after a client has moved in which no deadline of its ends: what came on the way is to be seen first.
MOMENT = 1.0


class Stream:
    """`pending` is what is still to be sent; `reads_on`: a short read does not mean that there is no more to read."""

    __slots__ = (
        "_is_queued",
        "engine",
        "fd",
        "handle",
        "limit",
        "pending",
        "reads_on",
        "sock",
        "streak",
        "watches_out",
    )

    def __init__(self, engine: Engine, sock: _socket.socket) -> None:
        self.engine = engine
        self.sock = sock
        self.fd = sock.fileno()
        self.handle = handle_of(sock)
        self.pending = NOTHING
        self.reads_on = False
        self.watches_out = False
        self._is_queued = False  # in the ready list
        self.limit = BUFFER  # bytes of a read
        self.streak = 0  # reads in a row that were as long as that

    def filled(self) -> None:
        """A read was as long as it may be: after many of them the next ones may be longer."""
        self.streak += 1
        if self.streak == STREAK:
            self.limit = LARGE

    def blocked(self) -> None:
        """What was read was not taken at once."""
        self.streak = STREAK - REGAIN if self.limit == LARGE else 0
        self.limit = BUFFER

    def give(self, data: bytes | memoryview) -> int:
        """Send, and keep what there is no room for; return how much went. Raises OSError if nothing could."""
        sent = send(self.handle, data, 0)
        if sent < 0:
            if sent != -EAGAIN:
                raise OSError(-sent, "cannot send")
            sent = 0
        if sent < len(data):
            self.hold(data[sent:])
        return sent

    def hold(self, rest: bytes | memoryview) -> None:
        """Send this when there is room for it."""
        self.pending = memoryview(bytes(rest))
        if not self.watches_out:
            self.watches_out = True
            self.engine.rewatch(self.fd, STREAM_OUT)  # an edge at once, should there be room by now

    def give_pending(self) -> int:
        """Send what is pending, as far as there is room; return how much went. Raises OSError if nothing could."""
        sent = send(self.handle, self.pending, 0)
        if sent < 0:
            if sent != -EAGAIN:
                raise OSError(-sent, "cannot send")
            return 0
        self.pending = self.pending[sent:] or NOTHING
        return sent

    def enqueue(self) -> None:
        """Read on after the next poll."""
        if not self._is_queued:
            self._is_queued = True
            self.engine.ready.append(self)

    # From one worker to another

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on elsewhere: JSON values and bytes."""
        return {"pending": bytes(self.pending), "reads_on": self.reads_on}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where another one was with this socket. Raises ValueError or KeyError, or OSError if it is no use."""
        self.reads_on = bool(state["reads_on"])
        if pending := bytes_of(state, "pending"):
            self.pending = memoryview(pending)
            self.watches_out = True
        # The registration gives an edge for whatever there is already, so that nothing has to be asked for.
        self.engine.watch(self.fd, self, STREAM_OUT if pending else STREAM)

    def detach(self) -> None:
        """Leave the socket to somebody else, open; whoever still holds this one finds nothing left to do."""
        self.engine.unwatch(self.fd)
        self.handle = NOBODY
        self.pending = NOTHING

    # What is made of it

    def on_event(self, mask: int) -> None:
        """Handle an event, as epoll_ctl(2) has it."""
        raise NotImplementedError

    def on_ready(self, reads: int) -> None:
        """Read, at most so many buffers."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """Give up after an error of our own."""
        raise NotImplementedError
