"""A small HTTP server that does as it is told, for what the load tests' clients make of it."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loadtests.model import Backends, Running

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Seen:
    """One connection, as the server sees it."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        self.connection = connection
        self.address = address
        self.requests = 0
        self.received = b""
        self.memory: mmap.mmap | None = None


class Server:
    """One thread: while `respond` takes its time, everybody waits.

    `respond` returns what is sent, or None to close the connection; it is given the connection, and how many requests
    have come before this one on any.
    """

    def __init__(self, respond: Callable[[Seen, int], bytes | None]) -> None:
        self.respond = respond
        self.requests = 0
        self.connections: list[Seen] = []
        self._open: dict[int, Seen] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = int(self._listener.getsockname()[1])
        self._wake, self._woken = socket.socketpair()
        self._epoll = select.epoll()
        for each in (self._listener, self._woken):
            self._epoll.register(each, select.EPOLLIN)

    def serve(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == self._woken.fileno():
                    return
                if descriptor == self._listener.fileno():
                    self._accept()
                elif (seen := self._open.get(descriptor)) and not self._answer(seen):
                    self.close(seen)

    def end(self) -> None:
        """After `wake` has ended `serve`."""
        for seen in list(self._open.values()):
            self.close(seen)
        for each in (self._listener, self._woken, self._epoll):
            each.close()

    @property
    def open(self) -> int:
        return len(self._open)

    def stop_listening(self) -> None:
        """From now on connects are refused."""
        self._listener.close()

    def wake(self) -> None:
        self._wake.close()

    def close(self, seen: Seen) -> None:
        self._open.pop(seen.connection.fileno(), None)
        seen.connection.close()

    def _accept(self) -> None:
        connection, address = self._listener.accept()
        seen = Seen(connection, address[0])
        self.connections.append(seen)
        self._open[connection.fileno()] = seen
        self._epoll.register(connection, select.EPOLLIN)

    def _answer(self, seen: Seen) -> bool:
        """Whether the connection goes on."""
        try:
            more = seen.connection.recv(65536)
            seen.received += more
            while b"\r\n\r\n" in seen.received:
                seen.received = seen.received.partition(b"\r\n\r\n")[2]
                response = self.respond(seen, self.requests)
                self.requests += 1
                seen.requests += 1
                if response is None:
                    return False
                seen.connection.sendall(response)
        except ConnectionError:
            return False
        return bool(more)


@contextmanager
def serving(respond: Callable[[Seen, int], bytes | None] = lambda _seen, _number: OK) -> Iterator[Server]:
    server = Server(respond)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.wake()
        thread.join()
        server.end()


def directly(port: int, *pids: int) -> tuple[Running, Backends]:
    """No relay at all in front of what is on this port; its CPU time is that of these processes."""
    return Running({port: port}, lambda: frozenset(pids), lambda: frozenset(pids)), Backends(port, port, port)
