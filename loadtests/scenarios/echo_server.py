"""A websocket server that sends back what it gets (RFC 6455), frame by frame: the backend of the websocket scenario.

    python -m loadtests.scenarios.echo_server WHERE     # see listening.py; says so once it listens

It serves until it is ended by a signal. Pings are answered, fragments come back as fragments, a close frame is sent
back before the connection is closed.
Plain epoll: behind every relay it must cost less than the relay.
"""

from __future__ import annotations

import gc
import select
import signal
import socket
import sys

from loadtests.machine import raise_descriptor_limit
from loadtests.scenarios.frames import (
    CLOSE,
    FINAL,
    OPCODE,
    PING,
    PONG,
    FrameError,
    accept_key,
    fields,
    server_frame,
    take,
)
from loadtests.scenarios.listening import listener_at, say_ready

_CHUNK = 1 << 14
_LONGEST_HEAD = 1 << 14
_NO_WEBSOCKET = (
    b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\nConnection: close, upgrade\r\n\r\n"
)


class Client:
    """What a server keeps of one connection; no I/O. `feed` takes what came and returns what goes back."""

    __slots__ = ("_is_open", "_waiting", "is_over")

    def __init__(self) -> None:
        self._waiting = b""
        self._is_open = False  # the handshake is done
        self.is_over = False  # to be closed when all is sent

    def feed(self, data: bytes) -> bytes:
        self._waiting = data = self._waiting + data if self._waiting else data
        if self._is_open:
            return self._echoes()
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            self.is_over = len(data) > _LONGEST_HEAD
            return b""
        self._waiting = rest
        return self._handshake(head) + (b"" if self.is_over else self._echoes())

    def _handshake(self, head: bytes) -> bytes:
        asked = fields(head)
        if asked.get("upgrade", "").lower() != "websocket" or "sec-websocket-key" not in asked:
            self.is_over = True
            return _NO_WEBSOCKET
        self._is_open = True
        accept = accept_key(asked["sec-websocket-key"])
        return (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
        ).encode()

    def _echoes(self) -> bytes:
        """Frames for all whole ones that wait."""
        data, start, back = self._waiting, 0, b""
        try:
            while not self.is_over and (frame := take(data, start)):
                start += frame.size
                back += self._echo(frame.first, frame.payload)
        except FrameError as error:
            self.is_over = True
            back += server_frame(FINAL | CLOSE, error.status.to_bytes(2, "big"))
        self._waiting = data[start:] if start < len(data) else b""
        return back

    def _echo(self, first: int, payload: bytes) -> bytes:
        opcode = first & OPCODE
        if opcode == PONG:
            return b""
        self.is_over = opcode == CLOSE
        return server_frame(FINAL | PONG if opcode == PING else first, payload)


class Server:
    """All connections, in one thread. One whose answers are not taken is not read from until they are."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._open: dict[int, tuple[socket.socket, Client]] = {}
        self._unsent: dict[int, bytes] = {}

    def serve(self) -> None:
        listening = self._listener.fileno()
        while True:
            for descriptor, event in self._epoll.poll():
                if descriptor == listening:
                    self._accept()
                    continue
                try:
                    self._go_on(descriptor, event)
                except BlockingIOError:
                    pass
                except OSError:
                    self._close(descriptor)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[connection.fileno()] = connection, Client()
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _go_on(self, descriptor: int, event: int) -> None:
        connection, client = self._open[descriptor]
        if event & select.EPOLLOUT:
            self._send_rest(descriptor)
        elif not (data := connection.recv(_CHUNK)):
            self._close(descriptor)
        elif (back := client.feed(data)) and (sent := _send(connection, back)) < len(back):
            self._unsent[descriptor] = back[sent:]
            self._epoll.modify(descriptor, select.EPOLLOUT)
        elif client.is_over:
            self._close(descriptor)

    def _send_rest(self, descriptor: int) -> None:
        connection, client = self._open[descriptor]
        rest = self._unsent[descriptor]
        self._unsent[descriptor] = rest = rest[_send(connection, rest) :]
        if not rest and client.is_over:
            self._close(descriptor)
        elif not rest:
            self._epoll.modify(descriptor, select.EPOLLIN)

    def _close(self, descriptor: int) -> None:
        connection, _ = self._open.pop(descriptor)
        self._unsent.pop(descriptor, None)
        connection.close()


def _send(connection: socket.socket, data: bytes) -> int:
    """How many bytes fit into the socket's buffer, perhaps none."""
    try:
        return connection.send(data)
    except BlockingIOError:
        return 0


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise_descriptor_limit()
    server = Server(listener_at(sys.argv[1]))
    gc.collect()
    gc.disable()
    say_ready()
    server.serve()


if __name__ == "__main__":
    main()
