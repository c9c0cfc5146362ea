"""A server on bare sockets, `plain.py PORT`, that shuts down as Go's net/http does and can break its word in many ways.

On SIGTERM it closes its listener and every idle connection, lets requests in flight end with `Connection: close`, and
exits with the last one.

`GET /` says who answers; `POST /ids/ID` counts an id; `/held/GATE` answers one half, and the other when the gate is
open; `/silent/GATE` answers nothing before; `/health` is 503 while the gate sick-VERSION is open. `/break` closes
without an answer, `/truncate` amid one; `/close` says `Connection: close` and does; `/last` closes after the answer
without having said so; `/doomed` answers, and resets the connection when the next request arrives.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import threading
import time
from typing import BinaryIO

from ledger import NAME, enter, is_open


class Server:
    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._idle: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stopping = False
        self._threads: set[threading.Thread] = set()

    def run(self) -> None:
        with contextlib.suppress(OSError):  # stop() has shut it down
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.add(thread)
                thread.start()
        for thread in tuple(self._threads):
            thread.join()

    def stop(self) -> None:
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._idle:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
            keep = True
            while keep and (line := self._next_request(connection, stream)):
                keep = _answer(connection, stream, line, closing=self._stopping)
        self._threads.discard(threading.current_thread())

    def _next_request(self, connection: socket.socket, stream: BinaryIO) -> bytes:
        """Wait for a request line; b"" when the connection ends first."""
        with self._lock:
            if self._stopping:
                return b""
            self._idle.add(connection)
        try:
            return stream.readline()
        finally:
            with self._lock:
                self._idle.discard(connection)


def _answer(connection: socket.socket, stream: BinaryIO, line: bytes, *, closing: bool) -> bool:
    """Answer one request; whether the connection is kept."""
    fields = [field.lower().strip() for field in iter(stream.readline, b"\r\n")]
    stream.read(sum(int(field.split(b":")[1]) for field in fields if field.startswith(b"content-length")))
    _, place, name = (line.split()[1].decode() + "/").split("/")[:3]
    begin, end = f"{NAME} begins\n".encode(), f"{NAME} ends\n".encode()
    text = NAME
    if place == "ids":
        enter(name)
        text = f"{NAME} {name}"
    elif place == "break":
        return False
    elif place == "truncate":
        connection.sendall(_head(len(begin + end)) + begin)
        return False
    elif place == "held":
        connection.sendall(_head(len(begin + end)) + begin)
        _wait_for(name)
        connection.sendall(end)
        return not closing
    elif place == "silent":
        _wait_for(name)
    status = "503 Sick" if place == "health" and is_open(f"sick-{NAME.split()[0]}") else "200 OK"
    closing |= place == "close" or b"connection: close" in fields
    connection.sendall(_head(len(text), status, closing=closing) + text.encode())
    if place == "doomed":
        stream.readline()
        # SO_LINGER with 0 seconds: close() sends a reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False
    return not closing and place != "last"


def _head(length: int, status: str = "200 OK", *, closing: bool = False) -> bytes:
    close = "Connection: close\r\n" if closing else ""
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{close}\r\n".encode()


def _wait_for(gate: str) -> None:
    while not is_open(gate):
        time.sleep(0.01)


if __name__ == "__main__":
    server = Server(int(sys.argv[1]))

    def stop(*_: object) -> None:
        # Not in the handler: it would wait for a lock that the thread it interrupts may hold.
        threading.Thread(target=server.stop).start()

    signal.signal(signal.SIGTERM, stop)
    server.run()
    os._exit(0)
