"""A small HTTP backend for the tests: it says who it is, and misbehaves as it is told.

    backend.py --port N | --socket PATH [options]

`GET /` answers `VERSION GENERATION REPLICA PID`, on as many requests as a connection has. `GET /health` answers 200, or
503 while the file `--sick` exists.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    options = _parser().parse_args()
    for line in options.say:
        print(line, flush=True)
    if options.exit is not None:
        sys.exit(options.exit)
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.never_listen:
        threading.Event().wait()
    time.sleep(options.late)
    server = Server(options)
    if options.polite:
        signal.signal(signal.SIGTERM, server.say_goodbye)
    server.run()


class Server:
    def __init__(self, options: argparse.Namespace) -> None:
        self._sick: Path | None = options.sick
        self._connections: set[socket.socket] = set()
        names = ("PROXY_VERSION", "PROXY_GENERATION", "PROXY_REPLICA")
        self._name = " ".join([*(os.environ.get(name, "-") for name in names), str(os.getpid())])
        if options.socket:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(options.socket)
        else:
            self._listener = socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((options.host, options.port))
        self._listener.listen(1024)

    def run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def say_goodbye(self, *_: object) -> None:
        """Tell every client that it is to leave, and go."""
        for connection in tuple(self._connections):
            connection.sendall(b"goodbye\n")
        sys.exit(0)

    def _serve(self, connection: socket.socket) -> None:
        self._connections.add(connection)
        try:
            with connection, connection.makefile("rb") as lines:
                while request := lines.readline():
                    headers = [header.strip().lower() for header in iter(lines.readline, b"\r\n")]
                    connection.sendall(self._answer(request.split()[1].decode()))
                    if b"connection: close" in headers:
                        return
        except OSError:
            return
        finally:
            self._connections.discard(connection)

    def _answer(self, path: str) -> bytes:
        if path == "/health" and self._sick and self._sick.exists():
            return b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        body = self._name.encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--socket")
    parser.add_argument("--say", action="append", default=[], help="print this line at the start")
    parser.add_argument("--exit", type=int, help="exit with this status at once")
    parser.add_argument("--never-listen", action="store_true")
    parser.add_argument("--late", type=float, default=0.0, help="seconds before it listens")
    parser.add_argument("--sick", type=Path, help="while this file exists, /health fails")
    parser.add_argument("--stubborn", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--polite", action="store_true", help="on SIGTERM, say goodbye on every connection")
    return parser


if __name__ == "__main__":
    main()
