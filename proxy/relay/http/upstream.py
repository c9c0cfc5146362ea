"""A connection to a backend that belongs to one HTTP client, and is kept between its requests.

It takes a request, and reads what the backend says: interim responses, the response, the end. What that means for the
client, `client.py` decides.
"""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from errno import EAGAIN
from select import EPOLLIN, EPOLLOUT
from socket import MSG_DONTWAIT, MSG_PEEK
from typing import TYPE_CHECKING, Any

from proxy.core.http.head import HeadError, parse_response
from proxy.core.http.messages import Responses
from proxy.logs import facts
from proxy.relay.connection import NOTHING, reset_on_close
from proxy.relay.engine import GONE, LARGE, READ_ON, STREAM
from proxy.relay.http.stream import Stream
from proxy.relay.place import place_of
from proxy.relay.transfer import NOBODY, send

if TYPE_CHECKING:
    import _socket

    from proxy.core.http.head import RequestHead, ResponseHead
    from proxy.relay.generation import Endpoint, Generation
    from proxy.relay.http.client import HttpClient
    from proxy.wire import Route

log = logging.getLogger(__name__)

# The idle timeouts of servers start at two seconds. After this long, a request that must not be sent twice does not
# take the chance of meeting one.
FRESH = 1.0
SMALL = 16 * 1024  # bytes of a read that may be a whole message


def acknowledge(sock: _socket.socket) -> None:
    """Send the acknowledgement of what was read at once, when the rest of a message is still to come.

    A sender that writes head and body one by one, without TCP_NODELAY, waits for it with the second (RFC 896); the
    kernel would let it wait for up to 40 ms (tcp(7), TCP_QUICKACK).
    """
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class Upstream(Stream):
    """A client's, from `start` or `restore` on. While a request is in flight, `request` is its head.

    `policy` is the last one by which it was found to be where requests should go.
    """

    __slots__ = (
        "_known",
        "_opened",
        "_responses",
        "client",
        "endpoint",
        "generation",
        "had_interim",
        "idle_since",
        "is_answering",
        "is_blocked",
        "is_broken",
        "is_gone",
        "is_shut",
        "policy",
        "request",
    )

    def __init__(self, client: HttpClient, sock: _socket.socket, endpoint: Endpoint, generation: Generation) -> None:
        super().__init__(client.engine, sock)
        self.client = client
        self.endpoint = endpoint
        self.generation = generation
        self.policy: Route | None = None
        self.request: RequestHead | None = None
        self.had_interim = False
        self.is_answering = False  # the client has got bytes of the response
        self.is_blocked = False  # the client has to take what it got first
        self.is_broken = False  # nothing can be sent any more
        self.is_gone = False
        self.is_shut = False  # the client's FIN was passed on, or is about to be
        self.idle_since = self._opened = self.engine.now
        self._responses = Responses()
        self._known: ResponseHead | None = None  # the last head of a response that came whole

    def start(self, mask: int, *, was_reset: bool) -> None:
        """Serve the client from now on. `mask` holds the events of the socket until now. Raises OSError.

        The endpoint has counted the connection from the first attempt on.
        """
        self.is_broken = was_reset
        self.reads_on = bool(mask & READ_ON) or was_reset
        self.watches_out = bool(mask)
        self.engine.watch(self.fd, self, STREAM)
        self.generation.members.add(self.client)
        if mask & ~EPOLLOUT:
            self.enqueue()  # the edge of what it said is gone

    # Requests

    @property
    def is_ready(self) -> bool:
        """Whether a request can be sent on it, as far as events have told."""
        return not (self.request or self.reads_on or self.is_broken or self.is_shut or self.pending)

    def is_fresh(self) -> bool:
        """Whether a request that must not be sent twice may go this way: nothing suggests that it is about to close."""
        if self.engine.now - self.idle_since > FRESH:
            return False
        try:
            self.sock.recv(1, MSG_DONTWAIT | MSG_PEEK)  # not into the shared buffer, where the request still is
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # its end, or something that nobody asked for

    def ask(self, head: RequestHead, out: bytes) -> int:
        """Send a request; return how much of it went. Raises OSError if nothing could."""
        self.request = head
        self.had_interim = self.is_answering = False
        self.endpoint.in_flight += 1
        self._responses.expect(head.method)
        return self.give(out)

    def settled(self) -> None:
        """The request is in flight no longer."""
        if self.request is not None:
            self.request = None
            self.endpoint.in_flight -= 1
            self.idle_since = self.engine.now

    def _flush(self) -> None:
        """Send what is pending; when that is all, the client is read again."""
        try:
            sent = self.give_pending()
        except OSError:
            self.broke()
            return
        if sent:
            self.generation.upstream.unsent -= sent
            self.client.last = self.engine.now
            if not self.pending:
                if self.is_shut:
                    self.shut()
                self.client.on_room()

    def broke(self) -> None:
        """Nothing can be sent any more. What the backend said before that is still to be read: an early answer, say."""
        self.is_broken = self.reads_on = True
        self.pending = NOTHING
        self.enqueue()

    def shut(self) -> None:
        """Pass on the client's FIN, once everything before it is sent."""
        self.is_shut = True
        if not self.pending:
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:  # ENOTCONN: it was reset meanwhile
                self.broke()

    # Events

    def on_event(self, mask: int) -> None:
        if mask == EPOLLIN:  # nearly always
            if not self.is_blocked and not self._is_queued:
                self._pump(1)
            return
        if mask & READ_ON:
            self.reads_on = True
            if mask & GONE and self.request is None:
                self.client.drop()
                return
        if mask & EPOLLOUT and self.pending:
            self._flush()
        if mask & ~EPOLLOUT and not self.is_blocked and not self._is_queued and not self.is_gone:
            self._pump(1)

    def on_ready(self, reads: int) -> None:
        self._is_queued = False
        if not self.is_gone and not self.is_blocked:
            self._pump(reads)

    def fail(self, error: Exception) -> None:
        self.client.fail(error)

    def unblock(self) -> None:
        """The client has taken everything."""
        if self.is_blocked:
            self.is_blocked = False
            self.enqueue()

    # Responses

    def _pump(self, reads: int) -> None:
        """Read, at most `reads` buffers."""
        buffer, limit = self.engine.buffer, self.limit
        while True:
            size = buffer.receive(self.handle, limit)
            if size <= 0:
                if size != -EAGAIN:
                    self._lost(was_reset=size < 0)
                return
            self.client.last = self.engine.now
            if size <= SMALL and self._pass_at_once(buffer.take(size)):
                if not self.reads_on:
                    return
                continue
            flow = self.generation.downstream
            flow.received += size
            flow.unsent += size
            if not self._pass_on(buffer.view[:size]):
                return
            if size == limit:
                reads -= 1
                self.filled()
                if not reads or limit == LARGE:
                    self.enqueue()
                    return
            elif not self.reads_on:
                return

    def _pass_at_once(self, text: bytes) -> bool:
        """Pass on a response that came whole, if the client has nothing else under way; return whether that was so.

        Most responses go this way. It saves the handling of everything that may be otherwise, which is below.
        """
        client, head, request, responses = self.client, self._known, self.request, self._responses
        if (
            request is None
            or not request.is_usual
            or self.policy is not client.service.policy
            or responses.head is not None
            or responses.begun
            or self.pending
            or not client.has_asked
        ):
            return False
        size = len(text)
        if head is None or not text.startswith(head.raw) or size != len(head.raw) + head.length:
            end = text.find(b"\r\n\r\n") + 4
            try:
                head = parse_response(text[:end])
            except HeadError:
                return False
            if not head.is_usual or size != end + head.length:
                return False
            self._known = head
        sent = send(client.handle, text, 0)
        if sent < 0:
            if sent != -EAGAIN:
                client.gone()
                return True
            sent = 0
        flow = self.generation.downstream
        flow.received += size
        if sent < size:
            flow.unsent += size - sent
            client.keep(text[sent:], flow)
        self.request = None
        self.endpoint.in_flight -= 1
        self.idle_since = self.engine.now
        client.answered(self, head.status, size)
        return True

    def _pass_on(self, data: memoryview) -> bool:
        """Pass on what the backend has sent; return whether to read on."""
        responses, client, request = self._responses, self.client, self.request
        if request is None or not client.is_owed:
            client.on_unasked()
            return False
        size = len(data)
        try:
            if responses.body is None:
                is_whole = not responses.begun
                taken = responses.take(data)
                head = responses.head
                if head is None:
                    return True
                if not is_whole or head.status < 200 or request.is_connect or client.service.is_ending:
                    return self._pass_on_rare(head, request, data[taken:])
                if taken < size:
                    taken += responses.take(data[taken:])
                if taken == size and not responses.is_complete and self.endpoint.port:
                    acknowledge(self.sock)
            else:
                taken = responses.take(data)
        except HeadError as error:
            self._broke_rules(error)
            return False
        self.is_answering = True
        if not client.deliver(data if taken == size else data[:taken], self.generation.downstream):
            return False
        return self._after_bytes(is_excess=taken < size)

    def _pass_on_rare(self, first: ResponseHead, request: RequestHead, rest: memoryview) -> bool:
        """A head that came in pieces, or is more than the beginning of an ordinary response."""
        client, responses, flow = self.client, self._responses, self.generation.downstream
        head: ResponseHead | None = first
        while head is not None and head.is_interim:
            self.had_interim = True
            responses.next()
            if not client.deliver(head.raw, flow):
                return False
            rest = rest[responses.take(rest) :]
            head = responses.head
        if head is None:
            return self._wait_for_room()
        if head.status == 101 or (request.is_connect and head.status < 300):
            if head.status == 101 and not request.upgrade:
                raise HeadError("101 to a request that did not ask for it")
            client.upgraded(head, bytes(rest))
            return False
        out = client.last_words(head)
        size = responses.take(rest)
        out += rest[:size]
        self.is_answering = True
        return client.deliver(out, flow) and self._after_bytes(is_excess=size < len(rest))

    def _after_bytes(self, *, is_excess: bool) -> bool:
        """Bytes of a response were passed on; return whether to read on."""
        responses, client = self._responses, self.client
        head, body = responses.head, responses.body
        if head is not None and body is not None and body.is_done:
            client.responded(head, needs_close=body.needs_close, is_excess=is_excess)
            if self.is_gone:
                return False
        return self._wait_for_room()

    def _wait_for_room(self) -> bool:
        """Return whether to read on, or else wait until the client has taken what it got."""
        self.is_blocked = bool(self.client.pending)
        if self.is_blocked:
            self.blocked()
        return not self.is_blocked

    def _broke_rules(self, error: HeadError) -> None:
        log.warning(
            "a backend's response is not valid HTTP/1",
            extra=facts(
                service=self.client.service.name,
                generation=self.generation.number,
                backend=self.endpoint.address,
                error=error,
            ),
        )
        self.client.backend_failed()

    def _lost(self, *, was_reset: bool) -> None:
        """The backend has closed the connection, or reset it."""
        client, responses = self.client, self._responses
        head, body = responses.head, responses.body
        if self.request is None or not client.is_owed:
            client.on_unasked()
        elif head is not None and body is not None and body.needs_close and not was_reset:
            client.responded(head, needs_close=True, is_excess=False)
        elif self.is_answering or self.had_interim or responses.begun or not client.retry():
            client.backend_failed()

    # From one worker to another

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "place": place_of(self.generation, self.endpoint),
            "is_asked": self.request is not None,
            "had_interim": self.had_interim,
            "is_answering": self.is_answering,
            "is_blocked": self.is_blocked,
            "is_broken": self.is_broken,
            "is_shut": self.is_shut,
            "idle_since": self.idle_since,
            "opened": self._opened,
            "responses": self._responses.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._responses.restore(state["responses"])
        self.had_interim = bool(state["had_interim"])
        self.is_answering = bool(state["is_answering"])
        self.is_blocked = bool(state["is_blocked"])
        self.is_broken = bool(state["is_broken"])
        self.is_shut = bool(state["is_shut"])
        self.idle_since = float(state["idle_since"])
        self._opened = float(state["opened"])
        super().restore(state)
        self.generation.members.add(self.client)
        self.endpoint.connections += 1
        if state["is_asked"]:
            self.request = self.client.asked
            self.endpoint.in_flight += self.request is not None

    def detach(self) -> None:
        super().detach()
        self.release()
        self.endpoint.connections -= 1
        self.generation.members.remove(self.client)

    # The end

    def release(self) -> None:
        """Stop being the client's; the socket stays open, for somebody else."""
        self.settled()
        self.is_gone = True
        self.handle = NOBODY
        self.pending = NOTHING

    def close(self, *, reset: bool) -> None:
        """Close it; with RST where something is under way."""
        self.release()
        if reset:
            reset_on_close(self.sock)
        self.engine.close(self.sock)
        self.endpoint.connections -= 1
        self.generation.lasted(self.engine.now - self._opened)
