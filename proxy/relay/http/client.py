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
from typing import TYPE_CHECKING, Any

from proxy.core.http.head import HeadError, parse_request
from proxy.logs import facts
from proxy.relay.connection import IDLE, NOTHING, reset_on_close
from proxy.relay.engine import STREAM
from proxy.relay.http.exchange import Exchange
from proxy.relay.http.reader import BUSY, CLOSED, FLUSHING, HEAD, LINGERING, SEEKING, RequestReader
from proxy.relay.http.search import Search
from proxy.relay.http.stream import MOMENT
from proxy.relay.http.tunnel import open_tunnel
from proxy.relay.http.upstream import Upstream
from proxy.relay.place import find_place
from proxy.relay.transfer import NOBODY

if TYPE_CHECKING:
    import _socket

    from proxy.core.http.head import RequestHead, ResponseHead
    from proxy.relay.attempt import Attempt
    from proxy.relay.generation import Flow, Generation
    from proxy.relay.service import Service

log = logging.getLogger(__name__)

KNOWN = 2048  # bytes of a head that is remembered
LINGER = 5.0  # seconds without a byte
LONGEST_LINGER = 30.0


class HttpClient(RequestReader):
    """A client's connection, from its acceptance until it is closed or has become a tunnel.

    While it has an upstream, it is a member of that one's generation.
    """

    __slots__ = ("_exchange", "_known", "_known_by", "_known_out", "_search", "upstream")

    def __init__(self, service: Service, sock: _socket.socket, address: object) -> None:
        """`address` is the client's, as accept(2) has it."""
        super().__init__(service, sock, address)
        self.upstream: Upstream | None = None
        self._exchange = Exchange()
        self._search: Search | None = None
        self._known: RequestHead | None = None  # the last request's head, and what was sent for it
        self._known_by = service.forwarding
        self._known_out = b""
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

    # Requests

    @property
    def is_closed(self) -> bool:
        return self._state == CLOSED

    @property
    def _has_room(self) -> bool:
        upstream = self.upstream
        return upstream is not None and not upstream.pending and not upstream.is_broken

    @property
    def is_owed(self) -> bool:
        """Whether the response to the present request is not complete."""
        return self._exchange.is_owed

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
        """Most requests go this way. It saves what is below, which sees to all that may be otherwise: more than half of
        what Python does for a small request.
        """
        upstream, service, requests, head = self.upstream, self.service, self._requests, self._known
        if (
            upstream is None
            or upstream.policy is not service.policy
            or requests.begun
            or self.has_timer
            or not upstream.is_ready
            or (service.balances_requests and service.has_better(upstream.endpoint))
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
        self._exchange.begin(head, out, len(text), self.engine.now)
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
        out = self._rewrite(head)
        if body:
            out += body
        self._exchange.begin(head, out, len(head.raw) + len(body), self.engine.now)
        if not self.resume():
            self._seek()

    def _pass_body(self, data: memoryview) -> None:
        upstream, size = self.upstream, len(data)
        if upstream is None:
            return
        self._exchange.hold(data)
        flow = upstream.generation.upstream
        flow.received += size
        flow.unsent += size
        try:
            flow.unsent -= upstream.give(data)
        except OSError:
            upstream.broke()
            return
        if self._requests.is_complete:
            self._sent_all(upstream)

    def on_room(self) -> None:
        """The backend has taken everything that was sent of the request."""
        if self._state != BUSY or self.upstream is None:
            return
        if self._requests.is_complete:
            self._sent_all(self.upstream)
        else:
            self._read_on()

    def _sent_all(self, upstream: Upstream) -> None:
        """The request is out, or kept by the upstream; the response may have been complete before."""
        if not self._exchange.is_owed and not upstream.pending:
            self._complete(upstream, is_excess=False)

    def _shut(self) -> None:
        if self.upstream is not None:
            self.upstream.shut()

    def resume(self) -> bool:
        """Send the request on the connection there is; return whether that is where it should go."""
        upstream, service, exchange = self.upstream, self.service, self._exchange
        head, out = exchange.head, exchange.held
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
        upstream = Upstream(self, attempt.sock, attempt.endpoint, attempt.generation)
        try:
            attempt.succeeded()
            upstream.start(mask, was_reset=attempt.was_reset)
        except OSError:
            attempt.withdraw()
            self.engine.close(attempt.sock)
            raise
        self.upstream = upstream
        upstream.policy = None if self.service.is_holding else self.service.policy
        head, out = self._exchange.head, self._exchange.held
        if head is None:
            self._become_tunnel(upstream, b"", out or b"")
        elif out is not None:
            self._send(upstream, head, out)

    def refused(self, reason: str) -> None:
        """There is no backend to be had."""
        self._search = None
        self.service.refuse(reason)
        if self._exchange.head is None:
            self.abort()
        else:
            self._reply(503)

    def _send(self, upstream: Upstream, head: RequestHead, out: bytes) -> None:
        """Send what there is of the request."""
        self._search = None
        self._state = BUSY
        exchange = self._exchange
        exchange.is_owed = True
        try:
            sent = upstream.ask(head, out)
        except OSError:
            # Nothing of it went, so it may go another way, whatever it is.
            if exchange.was_retried:
                self._reply_instead(upstream, 502)
            else:
                self._send_again(upstream)
            return
        flow = upstream.generation.upstream
        flow.received += exchange.uncounted
        flow.unsent += exchange.uncounted - sent
        exchange.sent_first(len(out))
        if self._has_ended:
            upstream.shut()
        elif self.reads_on:
            self._look_for_end()
        if not self._requests.is_complete:
            self._read_on()

    # Responses

    def deliver(self, data: bytes | memoryview, flow: Flow | None) -> bool:
        self._exchange.sent += len(data)
        return super().deliver(data, flow)

    def flushed(self) -> None:
        if self.upstream is not None:
            self.upstream.unblock()
        if self._state == FLUSHING:
            self._next()

    def answered(self, upstream: Upstream, status: int, size: int) -> None:
        """A response was passed on, and both connections stay as they are."""
        self._exchange.sent = size
        self._exchange.account(self.service, self.address, status, upstream)
        self._state = FLUSHING
        if not self.pending:
            self._next()

    def responded(self, head: ResponseHead, *, needs_close: bool, is_excess: bool) -> None:
        """The response is complete; the request need not be."""
        upstream = self.upstream
        if upstream is None:
            return
        self._exchange.account(self.service, self.address, head.status, upstream)
        request = self._exchange.head
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
        head, service = self._exchange.head, self.service
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
        self._exchange.end()
        self._requests.next()
        if self._behind or self._unread or self.reads_on:
            self.enqueue()
        if self.service.is_ending:
            self.service_ends()

    def _finish(self) -> None:
        """Close after a response."""
        self.drop()
        if self._has_ended or (self._requests.is_complete and not self._behind and not self._unread):
            self.close()
            return
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._state = LINGERING
        self._behind = b""
        self.last = self.engine.now
        self._linger(self.last + LONGEST_LINGER)
        self.enqueue()

    def _linger(self, limit: float) -> None:
        """Wait for the client to close, until it has been silent for a while, or until `limit`."""
        until = min(self.last + LINGER, limit)
        if until > self.engine.now:
            self.set_timer(until, lambda: self._linger(limit), limit)
        else:
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
        """Send the request once more, if that does no harm; return whether it does not."""
        upstream = self.upstream
        if upstream is None or not self._exchange.may_be_repeated:
            return False
        self._send_again(upstream)
        return True

    def _send_again(self, upstream: Upstream) -> None:
        self._exchange.was_retried = True
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
                self._exchange.was_migrated = True
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

    def _pass_foreign(self, data: bytes) -> None:
        self.cancel_timer()
        self._exchange.held = data
        self._seek()

    def upgraded(self, head: ResponseHead, rest: bytes) -> None:
        """Client and backend have agreed on something else than HTTP/1."""
        upstream = self.upstream
        if upstream is not None:
            self._exchange.sent += len(head.raw)
            self._exchange.account(self.service, self.address, head.status, upstream)
            self._become_tunnel(upstream, head.raw + rest, self._behind)

    def _become_tunnel(self, upstream: Upstream, to_client: bytes, to_backend: bytes) -> None:
        self.cancel_timers()
        self._state = CLOSED
        self.handle = NOBODY
        self.service.http_clients.discard(self)
        open_tunnel(self, upstream, to_client, to_backend)

    # Answers of our own

    def _refuse(self, status: int) -> None:
        upstream = self.upstream
        if self._state != BUSY or upstream is None:
            self._reply(status)
        elif upstream.is_answering:
            self.abort()
        else:
            self._reply_instead(upstream, status)

    def _reply_instead(self, upstream: Upstream, status: int) -> None:
        """Answer in the backend's place a request that it has got."""
        self.drop(reset=True)
        self._reply(status, upstream)

    def _reply(self, status: int, upstream: Upstream | None = None) -> None:
        """Answer the request, or what should have been one; `upstream` is the one that has had it."""
        exchange, service = self._exchange, self.service
        if exchange.allows_more and not self._requests.is_complete:
            self._skip_body()
        if not exchange.allows_more or not self._requests.is_complete or self._has_ended or service.is_ending:
            self._closes = True
        self.cancel_timer()
        self._state = FLUSHING
        if self.deliver(exchange.render(status, close=self._closes), None):
            exchange.account(service, self.address, status, upstream)
            if not self.pending:
                self._next()

    # Timers

    def _watch_head(self) -> None:
        """A head has to be complete some time after it has begun."""
        service = self.service
        if not self._requests.begun:
            if not service.is_ending:
                self.cancel_timer()  # it was an empty line, in two pieces
        elif service.http is not None and not self.has_timer:
            self._set_head_timer(self.engine.now + service.http.header_timeout)

    def _set_head_timer(self, deadline: float) -> None:
        self.set_timer(deadline, lambda: self._reply(408), deadline)

    def idled(self) -> None:
        if self._state == SEEKING:
            self.last = self.engine.now  # it is not the client that keeps the other one waiting
        elif self._state == BUSY:
            self.cut()
            self.last = self.engine.now
        else:
            self.expel()

    def service_ends(self) -> None:
        """The service takes nothing new any more: leave as soon as that interrupts nothing."""
        if self._state == FLUSHING:
            self._closes = True
        if self._state != HEAD or self._requests.begun or self._behind or self.has_timer:
            return
        idle_at = self.last + IDLE
        if idle_at > self.engine.now:
            self.set_timer(idle_at, self._on_service_ended)
        else:
            self.close()

    def _on_service_ended(self) -> None:
        self._watch_head()
        self.service_ends()

    # From one worker to another

    @property
    def asked(self) -> RequestHead | None:
        """The head of the request that is under way."""
        return self._exchange.head

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on in another worker, or here again: JSON values and bytes."""
        search, upstream = self._search, self.upstream
        return super().state() | {
            "exchange": self._exchange.state(),
            "search": search.state() if search is not None else None,
            "upstream": upstream.state() if upstream is not None else None,
        }

    def detach(self) -> None:
        """Leave both sockets, open, to somebody else. Nobody is told, and no end is counted."""
        search, self._search = self._search, None
        upstream, self.upstream = self.upstream, None
        self._state = CLOSED  # so that whatever still comes here finds nothing to do
        self.cancel_timers()
        if search is not None:
            search.suspend()
        if upstream is not None:
            upstream.detach()
        super().detach()
        self.service.http_clients.discard(self)
        self.service.client_left()

    def take_up(self, state: dict[str, Any], backend: _socket.socket | None) -> None:
        """Go on where another one was with these sockets."""
        self.service.client_came()
        try:
            self.restore(state)
            if backend is not None:
                self._restore_upstream(state["upstream"], backend)
            self._go_on(state)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this client's alone
            self.fail(error)
            if backend is not None:  # which may not have been the client's yet
                reset_on_close(backend)
                self.engine.close(backend)

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._exchange.restore(state["exchange"], self._requests.head)

    def _restore_upstream(self, state: dict[str, Any], sock: _socket.socket) -> None:
        upstream = Upstream(self, sock, *find_place(self.service, state["place"]))
        upstream.restore(state)
        self.upstream = upstream
        if upstream.generation is not self.service.generation and not self.service.is_ending:
            self.redirect()

    def _go_on(self, state: dict[str, Any]) -> None:
        """Set off what no event of the sockets does."""
        soon = self.engine.now + MOMENT
        deadline = float(state["deadline"])
        self.watch_idle(soon)
        if self._state == LINGERING or self.service.is_ending:
            self.last = self.engine.now
        if self._state == LINGERING:
            self._linger(max(deadline, soon))
        elif self._state == SEEKING:
            self._search = Search(self)
            self._search.restore(state["search"])
        elif self._state == HEAD:
            if deadline:
                self._set_head_timer(max(deadline, soon))
            else:
                self._watch_head()
            if self._behind:
                self.enqueue()
        if self.service.is_ending:
            self.service_ends()

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
        elif self._state == SEEKING and self._exchange.head is not None:
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
        if self._exchange.is_owed and upstream is not None:
            self._exchange.account(self.service, self.address, 0, upstream)
        self.drop(reset=True)
        reset_on_close(self.sock)
        self.close()

    def close(self) -> None:
        if self._state == CLOSED:
            return
        self.drop()
        self._state = CLOSED
        self.cancel_timers()
        search, self._search = self._search, None
        if search is not None:
            search.withdraw()
        self.handle = NOBODY
        self.pending = NOTHING
        self.engine.close(self.sock)
        self.service.http_clients.discard(self)
        self.service.client_left()
