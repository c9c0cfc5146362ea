"""Clients that go on through a swap, and notice everything: a process of its own, in plain epoll.

    python -m loadtests.scenarios.swap_client PORT CONNECTIONS

So many kept connections, each with one request after the other, and beside them one new connection after the other.
Prints "ready" once every kept connection has had an answer, goes on until its stdin ends, and prints a Record as JSON.
"""

from __future__ import annotations

import errno
import gc
import math
import re
import select
import socket
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from loadtests.scenarios.swap_record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

_KEPT = b"GET /small HTTP/1.1\r\nHost: swap\r\n\r\n"
_NEW = b"GET /small HTTP/1.1\r\nHost: swap\r\nConnection: close\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_GOOD = (b"HTTP/1.1 200 ", b"HTTP/1.0 200 ")
_ROOM = 1 << 16
_PAUSE = 0.01  # after a failure, in seconds: who is refused at once must not count thousands of failures
_FIRST = 15.0  # for every client's first answer, in seconds
_LAST = 5.0  # for what is unanswered at the end
_READING = select.EPOLLIN | select.EPOLLRDHUP


class Client:
    """One request after the other: on a connection that is kept, or each on a new one."""

    def __init__(self, crowd: Crowd, *, keeps: bool) -> None:
        self.is_waiting = False  # for an answer
        self.answered = 0  # on this connection
        self._crowd = crowd
        self._record = crowd.record
        self._keeps = keeps
        self._request, self._answers = (_KEPT, self._record.kept) if keeps else (_NEW, self._record.new)
        self._peer: socket.socket | None = None
        self._is_connecting = False
        self._began = 0.0
        self._data = b""

    def begin(self) -> None:
        """Make a request; connect for it first, if need be."""
        self.is_waiting, self._began = True, time.monotonic()
        if self._peer:
            self._send(self._peer)
        else:
            self._connect()

    def wake(self, events: int) -> None:
        """Go on with what epoll says of the connection."""
        assert self._peer, "only who has a connection is woken"
        if not self._is_connecting:
            self._receive(self._peer, events)
        elif error := self._peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._fail(f"connect: {errno.errorcode[error]}")
        else:
            self._is_connecting = False
            self._crowd.epoll.modify(self._peer, _READING)
            self._send(self._peer)

    def close(self) -> None:
        if self._peer:
            self._leave()

    def _connect(self) -> None:
        self._peer = socket.socket()
        self._peer.setblocking(False)
        self._is_connecting, self.answered, self._data = True, 0, b""
        error = self._peer.connect_ex(self._crowd.address)
        if error in (0, errno.EINPROGRESS):
            self._crowd.watch(self, self._peer)
        else:
            self._fail(f"connect: {errno.errorcode[error]}")

    def _send(self, peer: socket.socket) -> None:
        try:
            peer.send(self._request)  # so few bytes go at once
        except ConnectionError as error:
            if self.answered:
                self._reconnect()
            else:
                self._fail(f"send: {type(error).__name__}")

    def _receive(self, peer: socket.socket, events: int) -> None:
        try:
            data = peer.recv(_ROOM)
        except ConnectionError as error:
            self._end(f"receive: {type(error).__name__}")
            return
        self._data += data
        if not data:
            self._end("an answer was cut off" if self._data else "the connection ended without an answer")
        elif self.is_waiting and is_whole(self._data):
            self._answer(is_closed=bool(events & select.EPOLLRDHUP))

    def _answer(self, *, is_closed: bool) -> None:
        answer, self._data = self._data, b""
        if not answer.startswith(_GOOD):
            self._fail(answer.partition(b"\r\n")[0].decode(errors="replace"))
            return
        self._answers.add(self._began, time.monotonic() - self._began)
        self.answered += 1
        self.is_waiting = False
        if not self._keeps:
            return  # the server closes, and the next connection is made when it has
        if is_closed or _CLOSE.search(answer):
            self._record.reconnects += 1
            self._leave()
        self._crowd.next(self)

    def _end(self, reason: str) -> None:
        """The server has closed, or reset, the connection."""
        if not self.is_waiting:
            self._leave()
            self._crowd.next(self)
        elif self.answered and not self._data:
            self._record.retries += 1
            self._leave()
            self._connect()
        else:
            self._fail(reason)

    def _reconnect(self) -> None:
        """The connection was closed before the request was written."""
        self._record.reconnects += 1
        self._leave()
        self._connect()

    def _fail(self, reason: str) -> None:
        self._record.failures[reason] += 1
        self.is_waiting = False
        self._leave()
        self._crowd.pause(self)

    def _leave(self) -> None:
        assert self._peer, "who leaves has a connection"
        self._crowd.forget(self._peer)
        self._peer.close()
        self._peer = None


def is_whole(answer: bytes) -> bool:
    """Whether head and body are there; one without a length ends with its connection, and is never whole."""
    head = answer.find(b"\r\n\r\n") + 4
    if head < 4:
        return False
    length = _LENGTH.search(answer, 0, head)
    return length is not None and len(answer) >= head + int(length[1])


class Crowd:
    """All clients, and the loop that wakes them."""

    def __init__(self, port: int, connections: int) -> None:
        self.address = ("127.0.0.1", port)
        self.record = Record()
        self.epoll = select.epoll()
        self._kept = [Client(self, keeps=True) for _ in range(connections)]
        self._clients = [*self._kept, Client(self, keeps=False)]
        self._by_descriptor: dict[int, Client] = {}
        self._paused: deque[tuple[float, Client]] = deque()  # with the time to go on at
        self._is_ending = False

    def run(self) -> None:
        """Until stdin ends, and then until everything is answered. SystemExit if a first request already failed."""
        with self.epoll:
            self._run()
            for client in self._clients:
                client.close()

    def _run(self) -> None:
        for client in self._clients:
            client.begin()
        self._serve(lambda: not self._silent() or bool(self.record.failures), _FIRST)
        if self._silent():
            sys.exit(f"not every client has an answer of {self.address}: {dict(self.record.failures)}")
        print("ready", flush=True)
        self.epoll.register(sys.stdin, select.EPOLLIN)
        self._serve(lambda: self._is_ending)
        self._serve(lambda: not self._waiting(), _LAST)
        self.record.failures["no answer"] += self._waiting()

    def watch(self, client: Client, peer: socket.socket) -> None:
        """Wake the client when its connection is made."""
        self._by_descriptor[peer.fileno()] = client
        self.epoll.register(peer, select.EPOLLOUT)

    def forget(self, peer: socket.socket) -> None:
        if self._by_descriptor.pop(peer.fileno(), None):
            self.epoll.unregister(peer)

    def next(self, client: Client) -> None:
        """The client may make its next request, unless all is over."""
        if not self._is_ending:
            client.begin()

    def pause(self, client: Client) -> None:
        """The client may make its next request in a moment."""
        self._paused.append((time.monotonic() + _PAUSE, client))

    def _serve(self, is_done: Callable[[], bool], patience: float = math.inf) -> None:
        deadline = time.monotonic() + patience
        while not is_done() and (now := time.monotonic()) < deadline:
            until = min(deadline, self._paused[0][0]) if self._paused else deadline
            for descriptor, events in self.epoll.poll(None if until == math.inf else max(0.0, until - now)):
                if client := self._by_descriptor.get(descriptor):
                    client.wake(events)
                else:
                    self._is_ending = True
                    self.epoll.unregister(descriptor)
            self._resume()

    def _resume(self) -> None:
        while self._paused and self._paused[0][0] <= time.monotonic():
            _, client = self._paused.popleft()
            self.next(client)

    def _silent(self) -> bool:
        return not all(client.answered for client in self._kept)

    def _waiting(self) -> int:
        return sum(client.is_waiting for client in self._clients)


def main() -> None:
    crowd = Crowd(int(sys.argv[1]), int(sys.argv[2]))
    gc.disable()  # a pause of this process would look like one of the relay
    crowd.run()
    print(crowd.record.as_json())


if __name__ == "__main__":
    main()
