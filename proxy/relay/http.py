"""An HTTP client: its requests, one at a time, and a connection to a backend that may change between them.

What it goes through (`_state`):

- HEAD: it is idle, or its next request's head is on the way. Nothing is in flight: the connection to the backend may be
  closed, or replaced by one to another generation or endpoint, without anybody noticing.
- SEEKING: a request is there, but no connection to a backend yet. What the client sends on stays in the kernel.
- BUSY: a request is in flight; its body is passed on as it comes, and so is the response. Both ways, what the one end
  does not take is kept, up to one buffer, and the other end is not read meanwhile.
- FLUSHING: the response is over, but the client has not taken all of it.
- LINGERING: nothing more will be answered. The connection is shut one way and read until the client closes it, because
  to close it with bytes unread would reset it, and the answer could be lost on that (RFC 9112, 9.6).

Requests that a client sends ahead (pipelining) wait their turn: no backend ever has two of them at once.
"""

from __future__ import annotations

import logging
import socket
import time
from email.utils import formatdate
from select import EPOLLIN, EPOLLOUT, EPOLLRDHUP
from socket import MSG_DONTWAIT, MSG_PEEK
from typing import TYPE_CHECKING, Final

from proxy.core.http.answer import ANSWERS, render
from proxy.core.http.head import HeadError, parse_request
from proxy.core.http.messages import Requests
from proxy.logs import facts
from proxy.relay.access_log import Entry
from proxy.relay.connection import IDLE, NOTHING, Connection, reset_on_close
from proxy.relay.engine import BUFFER, GONE, READ_ON, STREAM, STREAM_OUT
from proxy.relay.search import Search
from proxy.relay.upstream import SMALL, Upstream, acknowledge

if TYPE_CHECKING:
    import _socket

    from proxy.core.http.head import RequestHead, ResponseHead
    from proxy.relay.attempt import Attempt
    from proxy.relay.engine import Engine
    from proxy.relay.generation import Flow, Generation
    from proxy.relay.service import Service
    from proxy.relay.timers import Timer

log = logging.getLogger(__name__)


KNOWN = 2048  # bytes of a head that is remembered
HELD = 64 * 1024  # bytes of a request that are kept in case it has to be sent again
LINGER = 5.0  # seconds without a byte
LONGEST_LINGER = 30.0

HEAD: Final = 0
SEEKING: Final = 1
BUSY: Final = 2
FLUSHING: Final = 3
LINGERING: Final = 4
CLOSED: Final = 5


class HttpClient:
    """A client's connection, from its acceptance until it is closed or has become a tunnel.

    While it has an upstream, it is a member of that one's generation.
    """

    __slots__ = (
        "_accepted",
        "_behind",
        "_closes",
        "_flow",
        "_has_ended",
        "_head",
        "_held",
        "_idle_timer",
        "_is_queued",
        "_known",
        "_known_by",
        "_known_out",
        "_reads_on",
        "_receive",
        "_requests",
        "_search",
        "_sent",
        "_sock",
        "_started",
        "_state",
        "_timer",
        "_uncounted",
        "_unread",
        "_was_migrated",
        "_was_retried",
        "_watches_out",
        "address",
        "engine",
        "fd",
        "is_owed",
        "last",
        "pending",
        "send",
        "service",
        "upstream",
    )

    def __init__(self, service: Service, sock: _socket.socket, address: object) -> None:
        """`address` is the client's, as accept(2) has it."""
        self.service = service
        self.engine: Engine = service.engine
        self.address = _host_of(address)
        self.fd = sock.fileno()
        self.send = sock.send
        self.upstream: Upstream | None = None
        self.pending = NOTHING  # what the client has not taken yet
        self.last = self._accepted = self.engine.now
        self._flow: Flow | None = None  # to which that belongs
        self._sock = sock
        self._receive = sock.recv_into
        self._requests = Requests()
        self._state = HEAD
        self._search: Search | None = None
        self._timer: Timer | None = None  # of the state it is in
        self._idle_timer: Timer | None = None
        self._is_queued = False  # in the ready list
        self._reads_on = False  # a short read does not mean that there is no more
        self._unread = False  # there may be more, and no event will say so
        self._watches_out = False
        self._has_ended = False  # its FIN was read
        self._closes = False  # to be closed when the response is out
        self._behind = b""  # what was read and comes after the present request
        self._known: RequestHead | None = None  # the last request's head, and what was sent for it
        self._known_by = service.forwarding
        self._known_out = b""
        # The present request
        self._head: RequestHead | None = None
        self._held: bytes | None = b""  # what of it was or is to be sent, unless that is too much
        self._uncounted = 0  # bytes of it that were read but not yet counted
        self._started = 0.0
        self._sent = 0  # bytes of its response
        self._was_retried = False
        self._was_migrated = False
        self.is_owed = False  # its response is not complete
        service.http_clients.add(self)

    def start(self) -> None:
        try:
            self.engine.watch(self.fd, self, STREAM)
            if self.service.idle_timeout:
                self.watch_idle()
            self._pump(1)
            if self.service.is_ending:
                self.service_ends()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this client's alone
            self.fail(error)

    # Reading

    def on_event(self, mask: int) -> None:
        if mask == EPOLLIN and self._state == HEAD and not self._is_queued:  # nearly always
            self._pump(1)
            return
        if mask & READ_ON:
            self._reads_on = True
            if mask & GONE:
                self.gone()
                return
        if mask & EPOLLOUT and self.pending:
            self._flush()
        if mask & ~EPOLLOUT:
            self._unread = True
            if self._may_read():
                if not self._is_queued:
                    self._pump(1)
            elif mask & EPOLLRDHUP:
                self._look_for_end()

    def on_ready(self, reads: int) -> None:
        self._is_queued = False
        if self._state == HEAD and self._behind:
            data, self._behind = self._behind, b""
            if not self._take(memoryview(data)):
                return
        if self._may_read():
            self._pump(reads)

    def _enqueue(self) -> None:
        """Go on after the next poll."""
        if not self._is_queued:
            self._is_queued = True
            self.engine.ready.append(self)

    def on_room(self) -> None:
        """The backend has taken everything that was sent of the request."""
        if self._state != BUSY or self.upstream is None:
            return
        if not self._requests.is_complete:
            self._read_on()
        elif not self.is_owed:
            self._complete(self.upstream, is_excess=False)

    def _read_on(self) -> None:
        """There is room for the request's body."""
        if self._unread or self._reads_on:
            self._enqueue()

    def _may_read(self) -> bool:
        if self._state == BUSY:
            upstream = self.upstream
            return (
                upstream is not None
                and not upstream.pending
                and not upstream.is_broken
                and not self._has_ended
                and not self._requests.is_complete
            )
        return (self._state == HEAD and not self._behind) or self._state == LINGERING

    def _pump(self, reads: int) -> None:
        """Read, at most `reads` buffers."""
        receive, view = self._receive, self.engine.view
        self._unread = False
        while True:
            try:
                size = receive(view, 0, MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self.gone()
                return
            if not size:
                self._on_end()
                return
            self.last = self.engine.now
            if size <= SMALL and self._state == HEAD and self._ask_at_once(bytes(view[:size])):
                self._unread = self._reads_on
                return
            if not self._take(view[:size]):
                self._unread = self._unread or size == BUFFER or self._reads_on
                return
            if size == BUFFER:
                reads -= 1
                if not reads:
                    self._unread = True
                    self._enqueue()
                    return
            elif not self._reads_on:
                return

    def _take(self, data: memoryview) -> bool:
        """Take what was read; return whether to read on."""
        if self._state == HEAD:
            return self._on_head(data)
        if self._state == BUSY:
            return self._on_body(data)
        return self._state == LINGERING

    def _on_head(self, data: memoryview) -> bool:
        requests, size = self._requests, len(data)
        try:
            taken = requests.take(data)
            head = requests.head
            if head is None:
                if requests.is_foreign:
                    self._pass_on(requests.begun + bytes(data[taken:]))
                    return False
                self._watch_head()
                return True
            whole = taken
            if taken < size:
                whole += requests.take(data[taken:])
        except HeadError as error:
            self._reply(error.status)
            return self._state == LINGERING
        if self._timer is not None:
            self._cancel_timer()
        if whole < size:
            self._behind = bytes(data[whole:])
        elif self.address and not requests.is_complete:
            acknowledge(self._sock)
        self._begin(head, bytes(data[taken:whole]))
        return self._may_read()

    def _on_body(self, data: memoryview) -> bool:
        upstream, requests = self.upstream, self._requests
        if upstream is None:
            return False
        try:
            size = requests.take(data)
        except HeadError as error:
            if upstream.is_answering:
                self.abort()
            else:
                self._reply_instead(upstream, error.status)
            return self._state == LINGERING
        if size < len(data):
            self._behind = bytes(data[size:])
            data = data[:size]
        if self._held is not None:
            self._held = self._held + bytes(data) if len(self._held) + size <= HELD else None
        flow = upstream.generation.upstream
        flow.received += size
        flow.unsent += size
        try:
            flow.unsent -= upstream.give(data)
        except OSError:
            upstream.broke()
            return False
        if requests.is_complete:
            if not self.is_owed and not upstream.pending:
                self._complete(upstream, is_excess=False)
            elif self._reads_on:
                self._look_for_end()
        return self._may_read()

    def _on_end(self) -> None:
        """The client has closed its side, or both."""
        self._has_ended = True
        if self._state == BUSY and self.upstream is not None:
            self._closes = True
            self.upstream.shut()
        else:
            self.close()

    def _look_for_end(self) -> None:
        """The client's end was seen while it was not read: pass it on, unless there are bytes before it."""
        if self._state != BUSY or self._has_ended or self._behind or not self._requests.is_complete:
            return
        try:
            if self._sock.recv(1, MSG_DONTWAIT | MSG_PEEK):
                return
        except OSError:
            return
        self._on_end()

    # Requests

    @property
    def has_asked(self) -> bool:
        """Whether a request is in flight of which everything was read, and nothing was answered yet."""
        return (
            self._state == BUSY
            and self._requests.is_complete
            and not self._closes
            and not self.pending
            and not self.service.is_ending
        )

    def _ask_at_once(self, text: bytes) -> bool:
        """Send a request that came whole, if the way is clear; return whether that was so.

        Most requests go this way. It saves the handling of everything that may be otherwise, which is below: more than
        half of what Python does for a small request.
        """
        upstream, service, requests, head = self.upstream, self.service, self._requests, self._known
        if (
            upstream is None
            or upstream.policy is not service.policy
            or service.balances_requests
            or requests.begun
            or self._timer is not None
            or not upstream.is_ready
        ):
            return False
        forwarding = service.forwarding
        if (
            head is None
            or not text.startswith(head.raw)
            or len(text) != len(head.raw) + head.length
            or forwarding is not self._known_by
            or forwarding.is_unique
        ):
            end = text.find(b"\r\n\r\n") + 4
            try:
                head = parse_request(text[:end] if end < len(text) else text)
            except HeadError:
                return False
            if len(text) != end + head.length:
                return False
            out = self._rewrite(head)
        else:
            out = self._known_out
        if not (head.is_idempotent or upstream.is_fresh()):
            return False
        if head.length:
            out += text[len(head.raw) :]
        requests.came_whole(head)
        self._head = head
        self._started = self.engine.now
        self._sent = 0
        self._held = out
        self._uncounted = len(text)
        self._send(upstream, head, out)
        return True

    def _rewrite(self, head: RequestHead) -> bytes:
        """Return what is to be sent for a head; the last one is kept, since clients repeat themselves."""
        forwarding = self.service.forwarding
        out = forwarding.rewrite(head, self.address)
        if len(out) <= KNOWN:
            self._known, self._known_out, self._known_by = head, out, forwarding
        return out

    def _begin(self, head: RequestHead, body: bytes) -> None:
        """A request has come, with the beginning of its body."""
        self._head = head
        self._started = self.engine.now
        self._sent = 0
        out = self._rewrite(head)
        self._held = out + body if body else out
        self._uncounted = len(head.raw) + len(body)
        if not self.resume():
            self._seek()

    def resume(self) -> bool:
        """Send the request on the connection there is; return whether that is where it should go."""
        upstream, service, head, out = self.upstream, self.service, self._head, self._held
        if upstream is None:
            return False
        if upstream.policy is not service.policy:
            if service.is_holding:
                return False
            if not service.is_ending:
                if upstream.generation is not service.generation or upstream.endpoint not in service.endpoints:
                    self.let_go()
                    return False
                upstream.policy = service.policy
        if (
            head is None  # a tunnel, which has to be somebody's first
            or out is None
            or not upstream.is_ready
            or (service.balances_requests and service.has_better(upstream.endpoint))
            or not (head.is_idempotent or upstream.is_fresh())
        ):
            self.let_go()
            return False
        self._send(upstream, head, out)
        return True

    def _seek(self, *, is_retry: bool = False) -> None:
        """Look for a backend; for one other than the last, if that is the second time."""
        service, before = self.service, self.upstream
        self._state = SEEKING
        if service.is_ending:
            self.refused("no_backend")
            return
        if is_retry and before is not None and len(service.endpoints) > 1:
            self.let_go()
            self._search = Search(self, avoid=before.endpoint)
            self._search.begin()
            return
        if is_retry:
            self.let_go()
        attempt = service.first_attempt()
        if attempt is None:
            self._search = Search(self)
            self._search.begin()
        elif error := attempt.connect():
            self._search = Search(self)
            self._search.take_over(attempt, error)
        else:  # nearly always, with backends on this machine
            self.connected(attempt, 0)

    def connected(self, attempt: Attempt, mask: int) -> None:
        """There is a connection to a backend. `mask` holds the events of its socket until now."""
        self._search = None
        self.let_go()
        try:
            upstream = self.upstream = Upstream(self, attempt, mask)
        except OSError:
            attempt.withdraw()
            self.engine.close(attempt.sock)
            raise
        upstream.policy = None if self.service.is_holding else self.service.policy
        head, out = self._head, self._held
        if head is None:
            self._become_tunnel(upstream, b"", out or b"")
        elif out is not None:
            self._send(upstream, head, out)

    def refused(self, reason: str) -> None:
        """There is no backend to be had."""
        self._search = None
        self.service.refuse(reason)
        if self._head is None:
            self.abort()
        else:
            self._reply(503)

    def _send(self, upstream: Upstream, head: RequestHead, out: bytes) -> None:
        """Send what there is of the request."""
        self._search = None
        self._state = BUSY
        self.is_owed = True
        try:
            sent = upstream.ask(head, out)
        except OSError:
            # Nothing of it went, so it may go another way, whatever it is.
            if self._was_retried:
                self._reply_instead(upstream, 502)
            else:
                self._send_again(upstream)
            return
        flow = upstream.generation.upstream
        flow.received += self._uncounted
        flow.unsent += self._uncounted - sent
        self._uncounted = 0
        if len(out) > HELD:
            self._held = None
        if self._has_ended:
            upstream.shut()
        elif self._reads_on:
            self._look_for_end()
        if not self._requests.is_complete:
            self._read_on()

    # Responses

    def deliver(self, data: bytes | memoryview, flow: Flow | None) -> bool:
        """Send bytes of a response; return False if the client is gone. `flow` has counted them as unsent."""
        self._sent += len(data)
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
        if not self._watches_out:
            self._watches_out = True
            self.engine.rewatch(self.fd, STREAM_OUT)  # an edge at once, should there be room by now

    def _flush(self) -> None:
        """Send what is pending; when that is all, go on with what waited for it."""
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
        if self.pending:
            return
        self.pending = NOTHING
        if self.upstream is not None:
            self.upstream.unblock()
        if self._state == FLUSHING:
            self._next()

    def answered(self, upstream: Upstream, status: int, size: int) -> None:
        """A response was passed on, and both connections stay as they are."""
        self._sent = size
        self.is_owed = False
        self._account(status, upstream)
        self._state = FLUSHING
        if not self.pending:
            self._next()

    def responded(self, head: ResponseHead, *, needs_close: bool, is_excess: bool) -> None:
        """The response is complete; the request need not be."""
        upstream = self.upstream
        if upstream is None:
            return
        self.is_owed = False
        self._account(head.status, upstream)
        request = self._head
        if needs_close or not head.keep_alive:
            self._closes = is_excess = True
        elif request is not None and request.expects and not upstream.had_interim:
            # Without a "100 Continue" the client may send the body or not (RFC 9110, 10.1.1).
            is_excess = is_excess or not self._requests.is_complete
        is_over = is_excess or upstream.reads_on
        if self._requests.is_complete:
            if is_over or not upstream.pending:
                self._complete(upstream, is_excess=is_excess)
        elif is_over or self._has_ended:
            self.on_unasked()
        # Else the backend still takes the rest of the request.

    def on_unasked(self) -> None:
        """The backend has closed, or says something that is no response to anything: it cannot be used any more."""
        self.drop()
        if self._state == BUSY:  # the response was complete, the request is not: nobody wants the rest of it
            self._closes = True
            self._after_response()

    def _complete(self, upstream: Upstream, *, is_excess: bool) -> None:
        """Request and response are complete."""
        head, service = self._head, self.service
        upstream.settled()
        if head is None or not head.keep_alive or self._has_ended or service.is_ending:
            self._closes = True
        if self._closes or is_excess or not upstream.is_ready:
            self.drop()
        elif upstream.generation is not service.generation:
            self.let_go()
        self._after_response()

    def _after_response(self) -> None:
        self._state = FLUSHING
        if not self.pending:
            self._next()

    def _next(self) -> None:
        """Go on after a response that the client has taken."""
        if self._closes:
            self._finish()
            return
        self._state = HEAD
        self._head = None
        self._held = b""
        self._was_retried = False
        self._requests.next()
        if self._behind or self._unread or self._reads_on:
            self._enqueue()
        if self.service.is_ending:
            self.service_ends()

    def _finish(self) -> None:
        """Close after a response."""
        self.drop()
        if self._has_ended or (self._requests.is_complete and not self._behind and not self._unread):
            self.close()
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._state = LINGERING
        self._behind = b""
        self._started = self.last = self.engine.now
        self._timer = self.engine.at(self.engine.now + LINGER, self._on_lingered)
        self._enqueue()

    def _on_lingered(self) -> None:
        until = min(self.last + LINGER, self._started + LONGEST_LINGER)
        if until > self.engine.now:
            self._timer = self.engine.at(until, self._on_lingered)
        else:
            self._timer = None
            self.close()

    def last_words(self, head: ResponseHead) -> bytes:
        """Return the response's head as the client is to get it: a service that ends says so."""
        if not self.service.is_ending:
            return head.raw
        self._closes = True
        lines = head.raw[:-4].split(b"\r\n")
        kept = [line for line in lines if not line.lower().startswith(b"connection:")]
        return b"\r\n".join([*kept, b"Connection: close", b"", b""])

    def backend_failed(self) -> None:
        """No response will come, or not all of it."""
        upstream = self.upstream
        if upstream is None or upstream.is_answering:
            self.abort()
        else:
            self._reply_instead(upstream, 502)

    def retry(self) -> bool:
        """Send the request once more, if that does no harm (RFC 9110, 9.2.2); return whether it does not."""
        upstream, head = self.upstream, self._head
        if upstream is None or head is None or self._held is None or self._was_retried or not head.is_idempotent:
            return False
        self._send_again(upstream)
        return True

    def _send_again(self, upstream: Upstream) -> None:
        self._was_retried = True
        self.service.retried += 1
        upstream.settled()
        self._seek(is_retry=True)

    # The upstream

    def let_go(self) -> None:
        """Give up the connection to the backend, if there is one, and go on without."""
        upstream, service = self.upstream, self.service
        if upstream is not None:
            if upstream.generation is not service.generation and not service.is_ending:
                service.migrated += 1
                self._was_migrated = True
            self.drop()

    def drop(self, *, reset: bool = False) -> None:
        """Close the connection to the backend, if there is one."""
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.close(reset=reset)
            self.service.leave_generation(self, upstream.generation)

    def redirect(self) -> None:
        """Another generation takes new connections: with nothing in flight, the next request goes there."""
        if self._state != BUSY:
            self.let_go()

    @property
    def generation_in_flight(self) -> Generation | None:
        """The generation that the present request was given to, if there is one."""
        upstream = self.upstream
        return upstream.generation if upstream is not None and self._state == BUSY else None

    # Tunnels

    def _pass_on(self, data: bytes) -> None:
        """This is not HTTP/1: a tunnel from the first byte."""
        self._cancel_timer()
        self._held = data
        self._seek()

    def upgraded(self, head: ResponseHead, rest: bytes) -> None:
        """Client and backend have agreed on something else than HTTP/1."""
        upstream = self.upstream
        if upstream is not None:
            self.is_owed = False
            self._sent += len(head.raw)
            self._account(head.status, upstream)
            self._become_tunnel(upstream, head.raw + rest, self._behind)

    def _become_tunnel(self, upstream: Upstream, to_client: bytes, to_backend: bytes) -> None:
        """From here on nobody looks at the bytes. `to_backend` is not counted yet."""
        self._cancel_timers()
        self._state = CLOSED
        generation = upstream.generation
        connection = Connection(self.service, generation, upstream.endpoint, self._sock, upstream.sock, self._accepted)
        connection.client.watches_out = self._watches_out
        connection.client.reads_on = self._reads_on
        connection.backend.watches_out = upstream.watches_out
        connection.backend.reads_on = upstream.reads_on
        to_client = bytes(self.pending) + to_client
        generation.downstream.unsent -= len(to_client)
        generation.upstream.received += len(to_backend)
        generation.upstream.unsent -= len(upstream.pending)
        to_backend = bytes(upstream.pending) + to_backend
        upstream.release()
        generation.members.remove(self)
        self.service.http_clients.discard(self)
        connection.resume(to_client, to_backend)

    # Answers of our own

    def _reply_instead(self, upstream: Upstream, status: int) -> None:
        """Answer in the backend's place a request that it has got."""
        self.drop(reset=True)
        self._reply(status, upstream)

    def _reply(self, status: int, upstream: Upstream | None = None) -> None:
        """Answer the request, or what should have been one; `upstream` is the one that has had it."""
        head = self._head
        self.is_owed = False
        self._closes = (
            self._closes
            or head is None
            or not head.keep_alive
            or not head.minor
            or not self._requests.is_complete
            or self._has_ended
            or self.service.is_ending
        )
        payload = render(
            ANSWERS[status],
            accept=head.accept if head is not None else b"",
            is_head=head is not None and head.method == "HEAD",
            close=self._closes,
            date=formatdate(usegmt=True),
        )
        self._cancel_timer()
        self._state = FLUSHING
        if self.deliver(payload, None):
            self._account(status, upstream)
            if not self.pending:
                self._next()

    def _account(self, status: int, upstream: Upstream | None) -> None:
        """Count a response, and write it down. A status of 0 is none: the client has left, or was cut off."""
        head = self._head
        seconds = self.engine.now - self._started if head is not None else 0.0
        if upstream is None:
            self.service.answered[status] += 1
        elif status:
            upstream.generation.answered(status, seconds)
        if self.service.access_log is not None:
            self.service.access_log.write(
                Entry(
                    time=time.time() - seconds,
                    client=self.address,
                    method=head.method if head is not None else "",
                    target=head.target if head is not None else "",
                    status=status,
                    bytes=self._sent,
                    duration=seconds,
                    service=self.service.name,
                    version=upstream.generation.version if upstream is not None else "",
                    generation=upstream.generation.number if upstream is not None else 0,
                    replica=upstream.endpoint.replica if upstream is not None else None,
                    retried=self._was_retried,
                    migrated=self._was_migrated,
                )
            )
        self._was_migrated = False

    # Timers

    def _watch_head(self) -> None:
        """A head has to be complete some time after it has begun."""
        http = self.service.http
        if not self._requests.begun:
            if not self.service.is_ending:
                self._cancel_timer()  # it was an empty line, in two pieces
        elif http is not None and self._timer is None:
            self._timer = self.engine.at(self.engine.now + http.header_timeout, self._on_head_timeout)

    def _on_head_timeout(self) -> None:
        self._timer = None
        self._reply(408)

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
        if self._state == SEEKING:
            self.last = self.engine.now  # it is not the client that keeps the other one waiting
        if self.engine.now - self.last < self.service.idle_timeout:
            self.watch_idle()
        elif self._state == BUSY:
            self.cut()
            if self._state != CLOSED:
                self.last = self.engine.now
                self.watch_idle()
        else:
            self.expel()

    def service_ends(self) -> None:
        """The service takes nothing new any more: leave as soon as that interrupts nothing."""
        if self._state == FLUSHING:
            self._closes = True
        if self._state != HEAD or self._requests.begun or self._behind or self._timer is not None:
            return
        left = self.last + IDLE - self.engine.now
        if left > 0:
            self._timer = self.engine.at(self.engine.now + left, self._on_service_ended)
        else:
            self.close()

    def _on_service_ended(self) -> None:
        self._timer = None
        self._watch_head()
        self.service_ends()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_timers(self) -> None:
        self._cancel_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    # The end

    def end(self) -> None:
        """Leave the generation, now."""
        if self._state == BUSY:
            self.cut()
        elif self.service.is_ending:
            self.expel()
        else:
            self.let_go()

    def expel(self) -> None:
        """Leave altogether, now."""
        if self._state in (HEAD, LINGERING) and not self.pending:
            self.close()
        else:
            self.abort()

    def cut(self) -> None:
        """The request that is under way has to end, now."""
        upstream = self.upstream
        if self._state == BUSY and upstream is not None and not upstream.is_answering:
            self._reply_instead(upstream, 504)
        elif self._state == SEEKING and self._head is not None:
            self._search = None
            self._reply(504)
        else:
            self.abort()

    def fail(self, error: Exception) -> None:
        """Give up after an error of our own, whatever state that left."""
        log.error("a connection failed", exc_info=error, extra=facts(service=self.service.name))
        self.service.refuse("internal")
        self.abort()

    def gone(self) -> None:
        """The client is gone both ways."""
        if self._state in (HEAD, LINGERING):
            self.close()
        else:
            self.abort()

    def abort(self) -> None:
        """Close everything with RST, so that nobody takes what he got for the whole."""
        if self._state == CLOSED:
            return
        upstream = self.upstream
        if self.is_owed and upstream is not None:
            self._account(0, upstream)
        self.drop(reset=True)
        reset_on_close(self._sock)
        self.close()

    def close(self) -> None:
        if self._state == CLOSED:
            return
        self.drop()
        self._state = CLOSED
        self._cancel_timers()
        search, self._search = self._search, None
        if search is not None:
            search.withdraw()
        self.pending = NOTHING
        self.engine.close(self._sock)
        self.service.http_clients.discard(self)
        self.service.client_left()


def _host_of(address: object) -> str:
    """Return the IP address of what accept(2) gave, or ""."""
    if not isinstance(address, tuple):
        return ""
    host = str(address[0]).partition("%")[0]
    return host.removeprefix("::ffff:") if "." in host else host
