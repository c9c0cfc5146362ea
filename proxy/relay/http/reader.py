"""Reads what an HTTP client sends: heads, bodies, and its end.

What is read is limited by what can be done with it: nothing is read of a further request while one is in flight, nor
of a body while the backend has not taken what it got.
"""

from __future__ import annotations

from errno import EAGAIN
from select import EPOLLIN, EPOLLOUT, EPOLLRDHUP
from socket import MSG_DONTWAIT, MSG_PEEK
from typing import TYPE_CHECKING, Any, Final

from proxy.core.http.body import bytes_of
from proxy.core.http.head import HeadError
from proxy.core.http.messages import Requests
from proxy.relay.engine import BUFFER, GONE, LARGE, READ_ON
from proxy.relay.http.client_socket import ClientSocket
from proxy.relay.http.upstream import SMALL, acknowledge

if TYPE_CHECKING:
    import _socket

    from proxy.core.http.head import RequestHead
    from proxy.relay.service import Service

HEAD: Final = 0
SEEKING: Final = 1
BUSY: Final = 2
FLUSHING: Final = 3
LINGERING: Final = 4
CLOSED: Final = 5
NAMES: Final = ("head", "seeking", "busy", "flushing", "lingering")  # of those that can travel


class RequestReader(ClientSocket):
    """`_requests` cuts what is read into requests, of which one at a time is handed over."""

    __slots__ = ("_behind", "_closes", "_has_ended", "_requests", "_state", "_unread")

    def __init__(self, service: Service, sock: _socket.socket, address: object) -> None:
        super().__init__(service, sock, address)
        self._state = HEAD
        self._requests = Requests()
        self._behind = b""  # what was read and comes after the present request
        self._unread = False  # there may be more to read, and no event will say so
        self._has_ended = False  # its FIN was read
        self._closes = False  # to be closed when the response is out

    def on_event(self, mask: int) -> None:
        if mask == EPOLLIN and self._state == HEAD and not self._is_queued:  # nearly always
            self._pump(1)
            return
        if mask & READ_ON:
            self.reads_on = True
            if mask & GONE and self._state != HEAD:  # else there may be a request before the end
                self.gone()
                return
        if mask & EPOLLOUT and self.pending:
            self.flush()
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

    def _read_on(self) -> None:
        """There is room for the request's body."""
        if self._unread or self.reads_on:
            self.enqueue()

    def _may_read(self) -> bool:
        if self._state == BUSY:
            return self._has_room and not self._has_ended and not self._requests.is_complete
        return (self._state == HEAD and not self._behind) or self._state == LINGERING

    def _pump(self, reads: int) -> None:
        """Read, at most `reads` buffers."""
        buffer, limit = self.engine.buffer, self.limit
        self._unread = False
        while True:
            size = buffer.receive(self.handle, limit)
            if size <= 0:
                if not size:
                    self._on_end()
                elif size != -EAGAIN:
                    self.gone()
                return
            self.last = self.engine.now
            if size <= SMALL and self._state == HEAD and self._ask_at_once(buffer.take(size)):
                self._unread = self.reads_on
                return
            if not self._take(buffer.view[:size]):
                self._unread = self._unread or size == limit or self.reads_on
                self.blocked()
                return
            if size == limit:
                reads -= 1
                self.filled()
                if not reads or limit == LARGE:
                    self._unread = True
                    self.enqueue()
                    return
            elif not self.reads_on:
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
                    self._pass_foreign(requests.begun + bytes(data[taken:]))
                    return False
                self._watch_head()
                return True
            whole = taken
            if taken < size:
                whole += requests.take(data[taken:])
        except HeadError as error:
            self._refuse(error.status)
            return self._state == LINGERING
        self.cancel_timer()
        if whole < size:
            self._behind = bytes(data[whole:])
        elif self.address and not requests.is_complete:
            acknowledge(self.sock)
        self._begin(head, bytes(data[taken:whole]))
        return self._may_read()

    def _on_body(self, data: memoryview) -> bool:
        requests = self._requests
        try:
            size = requests.take(data)
        except HeadError as error:
            self._refuse(error.status)
            return self._state == LINGERING
        if size < len(data):
            self._behind = bytes(data[size:])
            data = data[:size]
        self._pass_body(data)
        if requests.is_complete and self.reads_on:
            self._look_for_end()
        return self._may_read()

    def _skip_body(self) -> None:
        """Read what has come of a body that nobody wants; many clients send it right behind the head."""
        buffer, requests = self.engine.buffer, self._requests
        size = buffer.receive(self.handle, BUFFER)
        if size < 0:
            return
        view = buffer.view[:size]
        try:
            taken = requests.take(view)
        except HeadError:
            return
        self._unread = self._unread or size == BUFFER
        if taken < size:
            self._behind = bytes(view[taken:])

    def _on_end(self) -> None:
        """The client has closed its side, or both."""
        self._has_ended = True
        if self._state == BUSY:
            self._closes = True
            self._shut()
        else:
            self.close()

    def _look_for_end(self) -> None:
        """The client's end was seen while it was not read: pass it on, unless there are bytes before it."""
        if self._state != BUSY or self._has_ended or self._behind or not self._requests.is_complete:
            return
        try:
            if self.sock.recv(1, MSG_DONTWAIT | MSG_PEEK):
                return
        except OSError:
            return
        self._on_end()

    # From one worker to another

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "state": NAMES[self._state],
            "requests": self._requests.state(),
            "behind": self._behind,
            "unread": self._unread,
            "has_ended": self._has_ended,
            "closes": self._closes,
        }

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._requests.restore(state["requests"])
        self._behind = bytes_of(state, "behind")
        self._unread = bool(state["unread"])
        self._has_ended = bool(state["has_ended"])
        self._closes = bool(state["closes"])
        self._state = NAMES.index(state["state"])

    # What is made of it

    @property
    def _has_room(self) -> bool:
        """Whether the backend has taken what it got of the request."""
        raise NotImplementedError

    def _ask_at_once(self, text: bytes) -> bool:
        """Send a request that came whole, if the way is clear; return whether that was so."""
        raise NotImplementedError

    def _begin(self, head: RequestHead, body: bytes) -> None:
        """A request has come, with the beginning of its body."""
        raise NotImplementedError

    def _pass_body(self, data: memoryview) -> None:
        """Send a piece of the body."""
        raise NotImplementedError

    def _shut(self) -> None:
        """Pass on that the client will say nothing more."""
        raise NotImplementedError

    def _pass_foreign(self, data: bytes) -> None:
        """Pass on what is not HTTP/1, from the first byte."""
        raise NotImplementedError

    def _refuse(self, status: int) -> None:
        """Nobody can say where the request ends, or where the next one begins."""
        raise NotImplementedError

    def _watch_head(self) -> None:
        """There is something of a head, or of an empty line."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
