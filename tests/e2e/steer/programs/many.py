"""An HTTP server for very many connections, with one process or several, on one socket or on one for each.

    many.py --port N [--host ADDRESS]… [--workers N] [--own] [--abrupt] [--reopen gap|overlap]

Any request is answered with `VERSION GENERATION REPLICA PID`; `/count` with how many connections this process has, that
one apart; `/break` not at all: the process exits. On SIGTERM it accepts what waits, listens no longer, and exits when
the last connection has ended.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import select
import signal
import socket
import sys

_NAMES = ("PROXY_VERSION", "PROXY_GENERATION", "PROXY_REPLICA")


def main() -> None:
    options = _parser().parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.abrupt:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if options.workers == 1:
        Server(options, _listen(options)).run()
        return
    listeners = [] if options.own else _listen(options)
    children = []
    for _ in range(options.workers):
        if not (child := os.fork()):
            Server(options, listeners or _listen(options)).run()
        children.append(child)
    for listener in listeners:
        listener.close()

    def stop(*_: object) -> None:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    for pid in children:
        os.waitpid(pid, 0)


def _listen(options: argparse.Namespace) -> list[socket.socket]:
    listeners = []
    for host in options.host or ["127.0.0.1"]:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options.mark:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, options.mark)
        if options.own or options.reopen == "overlap":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if ":" in host:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not options.dual)
        listener.bind((host, options.port))
        listener.listen(4096)
        listener.setblocking(False)
        listeners.append(listener)
    return listeners


class Server:
    """One process of it."""

    def __init__(self, options: argparse.Namespace, listeners: list[socket.socket]) -> None:
        self._options = options
        self._name = " ".join([*(os.environ.get(name, "-") for name in _NAMES), str(os.getpid())])
        self._connections: dict[int, socket.socket] = {}
        self._events = select.epoll()
        self._listeners: dict[int, socket.socket] = {}
        self._is_ending = False
        self._add(listeners)
        self._signals, wake = socket.socketpair()
        wake.setblocking(False)
        self._wake = wake
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        for number in () if options.abrupt else (signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, lambda *_: None)
        if options.reopen:
            signal.signal(signal.SIGHUP, lambda *_: None)
        self._events.register(self._signals, select.EPOLLIN)

    def run(self) -> None:
        while self._connections or not self._is_ending:
            for number, _ in self._events.poll():
                if number in self._listeners:
                    self._accept(self._listeners[number])
                elif number in self._connections:
                    self._serve(self._connections[number])
                elif number == self._signals.fileno():
                    self._obey(self._signals.recv(64))
        os._exit(0)

    def _obey(self, numbers: bytes) -> None:
        if signal.SIGHUP in numbers:
            old = tuple(self._listeners.values())
            if self._options.reopen == "gap":
                self._close(old)
            self._add(_listen(self._options))
            self._close(old)
        if {signal.SIGTERM, signal.SIGQUIT} & set(numbers):
            self._close(tuple(self._listeners.values()))
            self._is_ending = True

    def _add(self, listeners: list[socket.socket]) -> None:
        for listener in listeners:
            self._listeners[listener.fileno()] = listener
            self._events.register(listener, select.EPOLLIN)

    def _close(self, listeners: tuple[socket.socket, ...]) -> None:
        for listener in listeners:
            if self._listeners.pop(listener.fileno(), None):
                self._accept(listener)
                listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                connection.setblocking(False)
                self._connections[connection.fileno()] = connection
                self._events.register(connection, select.EPOLLIN)

    def _serve(self, connection: socket.socket) -> None:
        """Requests come whole: they are small, and a client waits for its answer."""
        try:
            request = connection.recv(4096)
            if request:
                connection.sendall(self._answer(request.split()[1]))
            if request and b"\r\nConnection: close\r\n" not in request:
                return
        except OSError:
            pass
        self._connections.pop(connection.fileno())
        connection.close()

    def _answer(self, path: bytes) -> bytes:
        if path == b"/break":
            os._exit(1)
        body = str(len(self._connections) - 1) if path == b"/count" else self._name
        return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", action="append", default=[], help="127.0.0.1, unless given")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dual", action="store_true", help="IPv6 sockets take IPv4 connections too")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--own", action="store_true", help="each worker has its own socket, by SO_REUSEPORT")
    parser.add_argument("--mark", type=int, default=0, help="its connections have this mark")
    parser.add_argument("--abrupt", action="store_true", help="SIGTERM ends it at once")
    parser.add_argument("--reopen", choices=["gap", "overlap"], help="on SIGHUP, listen anew: old socket closed first?")
    return parser


if __name__ == "__main__":
    sys.exit(main())
