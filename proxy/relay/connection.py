"""A client and its backend: two sides, and the bytes between them.

What a side goes through, as tcp(7), epoll(7) and the kernel have it:

- *reading*: `is_read` is set. Bytes are read into the engine's buffer and sent to the peer at once.
- *blocked*: the peer took less than all. The rest is kept in the peer's `pending`, and this side is not read until an
  EPOLLOUT of the peer has flushed it; then reading is resumed explicitly, because the edge is long gone.
- *eof*: the end of its stream (FIN) was read. Once the peer's `pending` is flushed it is passed on as
  shutdown(SHUT_WR); when both sides have got there, both are closed.
- *broken*: nothing can be sent to it any more. Its peer is not read any longer, but what it had sent before it broke
  still goes to the peer (an early answer, say); then the peer is reset.

A short read means that a socket is drained, which saves asking once more; but not when an edge told of an end, an error
or urgent bytes. That is remembered (`reads_on`), and from then on the socket is read until it says that it is empty.
"""

from __future__ import annotations

import logging
import socket
import struct
from errno import EAGAIN
from select import EPOLLERR, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from typing import TYPE_CHECKING, Any

from proxy.core.address import Address
from proxy.logs import facts
from proxy.relay.engine import BUFFER, LARGE, READ_ON, REGAIN, STREAK, STREAM, STREAM_OUT
from proxy.relay.parcel import MOMENT, Parcel
from proxy.relay.place import find_place, place_of
from proxy.relay.transfer import MORE, NOBODY, SHORT, handle_of, send

if TYPE_CHECKING:
    import _socket

    from proxy.relay.engine import Engine
    from proxy.relay.generation import Endpoint, Flow, Generation
    from proxy.relay.service import Service
    from proxy.relay.timers import Timer

log = logging.getLogger(__name__)

IDLE = 1.0  # seconds without a byte, after which closing a connection interrupts nothing
LAST_WORDS = 5.0  # seconds without a byte that a side which was reset leaves its peer to read what it had sent before
RESET = struct.pack("ii", 1, 0)  # struct linger: with a time of 0, close sends RST and drops what is unsent
NOTHING = memoryview(b"")
_FLAGS = ("eof", "has_fin", "is_broken", "reads_on", "watches_out")  # of a side; all are false at first


def reset_on_close(sock: _socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


class Side:
    """One of the two sockets, and the state of the stream that is read from it."""

    __slots__ = (
        "connection",
        "engine",
        "eof",
        "fd",
        "flow",
        "handle",
        "has_fin",
        "is_broken",
        "is_queued",
        "is_read",
        "limit",
        "peer",
        "pending",
        "reads_on",
        "sock",
        "streak",
        "watches_out",
    )

    peer: Side

    def __init__(self, sock: _socket.socket, connection: Connection, flow: Flow) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.handle = handle_of(sock)
        self.connection = connection
        self.engine = connection.engine
        self.flow = flow
        self.pending = NOTHING  # what is still to be sent to this side
        self.eof = False
        self.is_broken = False
        self.has_fin = False  # nothing but the end is left behind what can be read
        self.reads_on = False  # a short read does not mean that there is no more
        self.is_queued = False  # in the ready list
        self.watches_out = False
        self.is_read = True
        self.limit = BUFFER  # bytes of a read
        self.streak = 0  # reads in a row that were as long as that

    def on_event(self, mask: int) -> None:
        if mask == EPOLLIN:  # nearly always
            if self.is_read and not self.is_queued:
                self.pump(1)
            return
        if mask & READ_ON:
            self.read_on(mask & READ_ON)
        if mask & EPOLLOUT and self.pending:
            self.flush()
        if self.is_read:
            if not self.is_queued and mask & ~EPOLLOUT:
                self.pump(1)
        elif mask & EPOLLERR:
            self.broke()

    def read_on(self, reasons: int) -> None:
        """From now on do not take a short read for the last one, if events (of READ_ON) gave reasons for that."""
        self.reads_on = self.reads_on or bool(reasons)
        self.has_fin = reasons == EPOLLRDHUP and not self.is_broken
        if reasons & EPOLLPRI:
            # An urgent byte stays in the stream; a read stops before it, so there is still time to say so (tcp(7)).
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)

    def fail(self, error: Exception) -> None:
        self.connection.fail(error)

    def on_ready(self, reads: int) -> None:
        self.is_queued = False
        self.pump(reads)

    def enqueue(self) -> None:
        """Read on after the next poll."""
        if not self.is_queued:
            self.is_queued = True
            self.engine.ready.append(self)

    def pump(self, reads: int) -> None:
        """Send to the peer what can be read here, at most `reads` buffers."""
        if not self.is_read:
            return
        engine, flow, connection, source = self.engine, self.flow, self.connection, self.handle
        buffer, sink, limit = engine.buffer, self.peer.handle, self.limit
        while True:
            # The last bytes wait for the FIN that is read next, and both go as one packet.
            size = buffer.forward(source, sink, MORE if self.has_fin else 0, limit)
            if size <= 0:
                self._stopped(size)
                return
            flow.received += size
            connection.last = engine.now
            if size == limit:
                reads -= 1
                self.streak += 1
                if self.streak == STREAK:
                    self.limit = LARGE
                if not reads or limit == LARGE:
                    self.enqueue()
                    return
            elif not self.reads_on:
                return

    def _stopped(self, result: int) -> None:
        """Nothing was read, or not all of it sent: `result` is what transfer.Buffer.forward returned."""
        if result == SHORT:
            buffer, flow = self.engine.buffer, self.flow
            received, sent = buffer.received, buffer.sent
            flow.received += received
            self.connection.last = self.engine.now
            if sent < 0 and sent != -EAGAIN:
                flow.unsent += received
                self.peer.broke()
                return
            sent = max(sent, 0)
            flow.unsent += received - sent
            self.is_read = False
            self.streak = STREAK - REGAIN if self.limit == LARGE else 0
            self.limit = BUFFER
            self.peer.keep(buffer.view[sent:received])
        elif not result:
            self.on_eof()
        elif result != -EAGAIN:
            # Reset, or timed out. What came before was read and sent on; the peer learns it the same way.
            self.connection.abort()

    def keep(self, rest: memoryview) -> None:
        """Send these bytes when there is room for them."""
        self.pending = memoryview(bytes(rest))
        if not self.watches_out:
            self.watches_out = True
            self.engine.rewatch(self.fd, STREAM_OUT)  # an edge at once, should there be room by now

    def owe(self, data: bytes) -> None:
        """There is this to be sent, of what the peer has sent already."""
        if data:
            self.peer.flow.unsent += len(data)
            self.peer.is_read = False
            self.pending = memoryview(data)

    def settle(self) -> None:
        """Send what is owed, or else ask for what the peer has sent meanwhile: the edge of that may be gone."""
        if not self.pending:
            self.peer.enqueue()
            return
        self.flush()
        if self.pending:
            self.keep(self.pending)

    def flush(self) -> None:
        """Send what is pending; when that is all, the peer is read again or its end passed on."""
        peer = self.peer
        sent = send(self.handle, self.pending, 0)
        if sent < 0:
            if sent != -EAGAIN:
                self.broke()
            return
        peer.flow.unsent -= sent
        self.connection.last = self.engine.now
        self.pending = self.pending[sent:]
        if self.pending:
            return
        self.pending = NOTHING
        if not peer.eof:
            peer.is_read = True
            peer.enqueue()
        elif peer.is_broken:
            self.connection.abort()
        else:
            self.shut()

    def on_eof(self) -> None:
        """Its stream has ended; nothing is pending for the peer, or this side would not have been read."""
        self.eof = True
        self.is_read = False
        if self.is_broken:
            self.connection.abort()
        else:
            self.peer.shut()

    def shut(self) -> None:
        """Pass the end of the peer's stream on to this side."""
        if self.eof and not self.peer.pending:
            self.connection.close()
            return
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # ENOTCONN: it was reset meanwhile
            self.broke()

    def broke(self) -> None:
        """Nothing can be sent to this side any more."""
        if self.is_broken:
            return
        peer = self.peer
        self.is_broken = True
        self.has_fin = False
        self.pending = NOTHING
        peer.is_read = False
        if peer.is_broken or (self.eof and not peer.pending):
            self.connection.abort()
            return
        self.connection.watch_idle()
        if self.is_read:  # else it is blocked, and the peer's flush resumes or ends it
            self.reads_on = True
            self.enqueue()

    # From one worker to another

    def state(self) -> dict[str, Any]:
        """What `restore` needs, of which a side that is idle has nothing: JSON values and bytes."""
        state: dict[str, Any] = {name: True for name in _FLAGS if getattr(self, name)}
        if self.pending:
            state["pending"] = bytes(self.pending)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        for name in _FLAGS:
            setattr(self, name, bool(state.get(name)))
        if pending := state.get("pending"):
            self.pending = memoryview(pending)

    def go_on(self) -> None:
        """Read and send from where both sides are. The registration gives an edge for whatever there is already."""
        peer = self.peer
        if self.eof or peer.is_broken or peer.pending:
            self.is_read = False
        self.engine.watch(self.fd, self, STREAM_OUT if self.watches_out else STREAM)
        if self.is_read and self.reads_on:
            self.enqueue()

    def detach(self) -> None:
        """Leave the socket to somebody else, open; whoever still holds this side finds nothing left to do."""
        self.is_read = False
        self.pending = NOTHING
        self.is_broken = True
        self.handle = NOBODY
        del self.peer

    def release(self) -> None:
        """Close the socket; whoever still holds this side finds that there is nothing left to do."""
        self.is_read = False
        self.pending = NOTHING
        self.is_broken = True
        self.handle = NOBODY
        del self.peer
        self.engine.close(self.sock)


class Connection:
    """A client with a backend. It stays a member of its generation until it is closed."""

    __slots__ = ("_accepted", "_timer", "backend", "client", "endpoint", "engine", "generation", "last", "service")

    def __init__(
        self,
        service: Service,
        generation: Generation,
        endpoint: Endpoint,
        client: _socket.socket,
        backend: _socket.socket,
        accepted: float,
    ) -> None:
        self.engine: Engine = service.engine
        self.service = service
        self.generation = generation
        self.endpoint = endpoint
        self.client = Side(client, self, generation.upstream)
        self.backend = Side(backend, self, generation.downstream)
        self.client.peer, self.backend.peer = self.backend, self.client
        self.last = self.engine.now
        self._accepted = accepted
        self._timer: Timer | None = None
        generation.members.add(self)

    def start(self) -> None:
        """Relay from now on."""
        client, backend = self.client, self.backend
        try:
            self.engine.watch(client.fd, client, STREAM)
            self.engine.watch(backend.fd, backend, STREAM)
            if self.service.idle_timeout:
                self.watch_idle()
            client.pump(1)  # the edge of what it sent until now may be gone
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this connection's alone
            self.fail(error)

    def resume(self, to_client: bytes, to_backend: bytes) -> None:
        """Go on where somebody else had got to: these are still to be sent. Both sockets are watched by others."""
        client, backend = self.client, self.backend
        try:
            self.engine.watch(client.fd, client, STREAM)
            self.engine.watch(backend.fd, backend, STREAM)
            if self.service.idle_timeout:
                self.watch_idle()
            client.owe(to_client)
            backend.owe(to_backend)
            for side in (client, backend):
                if self in self.generation.members:
                    side.settle()
        except Exception as error:  # noqa: BLE001  # as above
            self.fail(error)

    # From one worker to another

    def pack(self) -> Parcel:
        """Take it out of its service. Nothing is closed, nobody is told, and no end is counted."""
        client, backend, service, endpoint = self.client, self.backend, self.service, self.endpoint
        state = {
            "place": place_of(self.generation, endpoint),
            "accepted": self._accepted,
            "last": self.last,
            "client": client.state(),
            "backend": backend.state(),
        }
        # Whoever takes it has the sockets open as well, so the kernel would not forget them by itself.
        self.engine.unwatch(client.fd)
        self.engine.unwatch(backend.fd)
        if self._timer is not None:
            self._timer.cancel()
        client.detach()
        backend.detach()
        del self.client, self.backend
        self.generation.members.remove(self)
        endpoint.connections -= 1
        service.client_left()
        return Parcel("tcp", service.name, state, (client.sock, backend.sock))

    @staticmethod
    def check(parcel: Parcel) -> None:
        """Raise ValueError, KeyError or TypeError for what `unpack` would not understand; nothing is touched."""
        state = parcel.state
        if len(parcel.sockets) != 2:
            raise ValueError(f"{len(parcel.sockets)} sockets")
        Address.parse(state["place"]["endpoint"])
        memoryview(state["client"].get("pending", b""))
        memoryview(state["backend"].get("pending", b""))
        float(state["accepted"]) + float(state["last"])

    @classmethod
    def unpack(cls, service: Service, parcel: Parcel) -> None:
        """Let it go on in this service.

        What is pending was counted as received and unsent where it was packed. It is only sent here, so the sums over
        both workers are right, and they are as well where both are the same.
        """
        state = parcel.state
        endpoint, generation = find_place(service, state["place"])
        client, backend = parcel.sockets
        connection = cls(service, generation, endpoint, client, backend, float(state["accepted"]))
        endpoint.connections += 1
        service.client_came()
        try:
            connection._go_on(state)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this connection's alone
            connection.fail(error)

    def _go_on(self, state: dict[str, Any]) -> None:
        client, backend = self.client, self.backend
        self.last = float(state["last"])
        client.restore(state["client"])
        backend.restore(state["backend"])
        client.go_on()
        backend.go_on()
        self.watch_idle(self.engine.now + MOMENT)

    def redirect(self) -> None:
        """It stays with its backend."""

    # Idle

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way: no byte moved for a while, and none waits to be sent."""
        return self.engine.now - self.last >= IDLE and not self.client.pending and not self.backend.pending

    @property
    def _idle_timeout(self) -> float:
        """Seconds without a byte after which to close; 0 is never."""
        timeout = self.service.idle_timeout
        if self._is_broken:
            return min(timeout, LAST_WORDS) if timeout else LAST_WORDS
        return timeout

    @property
    def _is_broken(self) -> bool:
        return self.client.is_broken or self.backend.is_broken

    def watch_idle(self, soon: float = 0.0) -> None:
        """Set the idle timer as the policy has it now, but not for before `soon`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if timeout := self._idle_timeout:
            self._timer = self.engine.at(max(self.last + timeout, soon), self._on_idle)

    def _on_idle(self) -> None:
        """The timer is not touched when bytes move; it looks when the last ones did instead."""
        self._timer = None
        if self.engine.now - self.last < self._idle_timeout:
            self.watch_idle()
        elif self._is_broken or self.client.pending or self.backend.pending:
            self.abort()
        else:
            self.close()

    # The end

    def end(self) -> None:
        """Close it from outside: FIN where nothing is under way, RST where something would be cut short."""
        if self.is_idle:
            self.close()
        else:
            self.abort()

    def fail(self, error: Exception) -> None:
        """Give up after an error of our own, whatever state that left."""
        log.error(
            "a connection failed",
            exc_info=error,
            extra=facts(service=self.service.name, generation=self.generation.number),
        )
        self.service.refuse("internal")
        if self in self.generation.members:
            self.abort()

    def abort(self) -> None:
        """Close both sides with RST, so that neither takes what it got for the whole."""
        reset_on_close(self.client.sock)
        reset_on_close(self.backend.sock)
        self.close()

    def close(self) -> None:
        """Close both sides; what is pending is dropped and stays counted as unsent."""
        if self._timer is not None:
            self._timer.cancel()
        self.client.release()
        self.backend.release()
        del self.client, self.backend  # a circle would leave closed connections to the garbage collector
        self.generation.lasted(self.engine.now - self._accepted)
        self.service.left(self, self.generation, self.endpoint)
