"""The kept connections of the load tests' own clients, watched by one epoll set; one exchange at a time on each."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from loadtests.scenarios.exchange import AnswerError

if TYPE_CHECKING:
    from loadtests.scenarios.exchange import Exchange

_CHUNK = 1 << 14
_PATIENCE = 10.0  # seconds for a connection to be made
_FINE = 0.01  # epoll_wait(2) counts in milliseconds: shorter times are waited for otherwise


class Line:
    """One connection, made anew on the same place when it fails. `socket` is None while that does not work either.

    `is_busy` while an exchange is under way, which should have been sent at `intended`, and was at `sent`, in
    nanoseconds. `queued`: how many more are due. The last three are the caller's.
    """

    __slots__ = ("intended", "is_busy", "partial", "queued", "sent", "socket")

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.is_busy = False
        self.partial = b""
        self.intended = self.sent = self.queued = 0


class Lines:
    """`count` connections to 127.0.0.1:port. `errors`: exchanges that failed, and attempts to connect;
    `reconnects`: connections that were made anew.
    """

    def __init__(self, port: int, count: int, exchange: Exchange) -> None:
        # The first descriptor of all: select(2), which counts in microseconds, takes those below 1,024.
        self.epoll = select.epoll()
        self.errors = self.reconnects = 0
        self._port, self._exchange = port, exchange
        self._by_descriptor: dict[int, Line] = {}
        self.all = [Line() for _ in range(count)]
        for line in self.all:
            self._connect(line)

    def send(self, line: Line) -> bool:
        """Begin an exchange; False if it has failed."""
        line.is_busy = True
        try:
            if line.socket is None:
                self._connect(line)
            if line.socket is not None:
                line.socket.send(self._exchange.request)  # small: it is sent whole or not at all
                return True
        except (OSError, AnswerError):
            pass
        self._fail(line)
        return False

    def wait(self, seconds: float) -> list[Line]:
        """Those with something to receive; none if that takes too long, or a little before."""
        if seconds > _FINE:
            events = self.epoll.poll(seconds - _FINE / 2)
        elif seconds > 0 and not select.select((self.epoll,), (), (), seconds)[0]:
            return []
        else:
            events = self.epoll.poll(0)
        return [self._by_descriptor[descriptor] for descriptor, _ in events]

    def receive(self, line: Line) -> bool:
        """Whether the exchange is over, and went well. One that fails is counted; the line is not busy then either."""
        if line.socket is None:
            return False
        try:
            data = line.partial + line.socket.recv(_CHUNK)
            if len(data) > len(line.partial) and line.is_busy:
                line.is_busy = not self._exchange.is_answer(data)
                line.partial = data if line.is_busy else b""
                return not line.is_busy
        except BlockingIOError:
            return False
        except (OSError, AnswerError):
            pass
        self._fail(line)
        return False

    def _fail(self, line: Line) -> None:
        """Give the connection up, and make it anew. An error only where something was under way."""
        self.errors += line.is_busy
        line.is_busy, line.partial = False, b""
        if line.socket is None:
            return
        del self._by_descriptor[line.socket.fileno()]
        line.socket.close()
        line.socket = None
        try:
            self._connect(line)
            self.reconnects += 1
        except (OSError, AnswerError):
            self.errors += 1

    def close(self) -> None:
        for line in self.all:
            if line.socket is not None:
                line.socket.close()
        self.epoll.close()

    def _connect(self, line: Line) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port), _PATIENCE)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._exchange.begin(connection)
        except (OSError, AnswerError):
            connection.close()
            raise
        connection.setblocking(False)
        line.socket = connection
        self._by_descriptor[connection.fileno()] = line
        self.epoll.register(connection.fileno(), select.EPOLLIN)
