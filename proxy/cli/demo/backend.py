"""The demo's web server, a program of its own: `python -m proxy.cli.demo.backend --port PORT --orders FILE`.

GET /                     the version, generation and process that answer
POST /orders              takes an order, whose id is the body, and notes it in the file
GET /download?seconds=5   4 MB, evenly over so many seconds; X-SHA256 says what they must be
GET /socket               a websocket that answers each text with the version and the text

It knows nothing of the proxy: it keeps connections open as any server does, and does not say goodbye when it is ended.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from proxy.cli.demo import websocket
from proxy.cli.demo.orders import note

VERSION = os.environ.get("PROXY_VERSION", "?")
GENERATION = os.environ.get("PROXY_GENERATION", "?")

_WORK = 0.02  # seconds that an order takes, so that some are under way whenever a swap switches
_LONGEST_ORDER = 1000  # bytes
_LONGEST_DOWNLOAD = 600.0  # seconds
_PIECE = bytes(range(256)) * 160
_PIECES = 100


class Handler(BaseHTTPRequestHandler):
    """Connections are kept (HTTP/1.1). A whole answer is one write, or Nagle's algorithm would hold its second half."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def __init__(self, orders: Path, *rest: Any) -> None:
        self._orders = orders
        super().__init__(*rest)

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        if where.path == "/":
            self._answer(f"{VERSION}, generation {GENERATION}, pid {os.getpid()}\n")
        elif where.path == "/download":
            self._download(parse_qs(where.query).get("seconds", ["5"])[0])
        elif where.path == "/socket":
            self._talk()
        else:
            self.send_error(HTTPStatus.NOT_FOUND, "there are /, /orders, /download and /socket")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != "/orders" or not length.isdecimal() or int(length) > _LONGEST_ORDER:
            self.close_connection = True  # the body is left unread
            self.send_error(HTTPStatus.BAD_REQUEST, "POST /orders takes a short id, with a Content-Length")
            return
        order = " ".join(self.rfile.read(int(length)).decode(errors="replace").split())
        time.sleep(_WORK)
        note(self._orders, order)
        self._answer(f"{VERSION} took the order {order}\n")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Thousands of short requests are not worth a line each."""

    def _answer(self, text: str) -> None:
        body = text.encode()
        self._begin(HTTPStatus.OK, {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _begin(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Version": VERSION}.items():
            self.send_header(name, value)
        self.end_headers()

    def _download(self, wanted: str) -> None:
        try:
            seconds = min(max(float(wanted), 0.0), _LONGEST_DOWNLOAD)
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST, "seconds is a number")
            return
        _log(f"a download of {seconds:g} seconds begins")
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(_PIECE) * _PIECES)}
        self._begin(HTTPStatus.OK, {**headers, "X-SHA256": hashlib.sha256(_PIECE * _PIECES).hexdigest()})
        for _ in range(_PIECES):
            self.wfile.write(_PIECE)
            self.wfile.flush()
            time.sleep(seconds / _PIECES)
        _log("the download is over")

    def _talk(self) -> None:
        """RFC 6455, section 4.2; after the handshake the connection belongs to the websocket, up to its end."""
        key, version = (self.headers.get(f"Sec-WebSocket-{name}", "") for name in ("Key", "Version"))
        if self.headers.get("Upgrade", "").lower() != "websocket" or not key or version != websocket.VERSION:
            length = {"Content-Length": "0", "Sec-WebSocket-Version": websocket.VERSION}
            self._begin(HTTPStatus.UPGRADE_REQUIRED, {"Upgrade": "websocket", "Connection": "Upgrade", **length})
            return
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": websocket.accept_key(key)}
        self._begin(HTTPStatus.SWITCHING_PROTOCOLS, upgrade)
        self.wfile.flush()
        self.close_connection = True
        _log("a websocket begins")
        try:
            self._echo()
        except websocket.WebsocketError as error:
            _log(f"a websocket ends: {error}")
            self._send(websocket.CLOSE, websocket.CLOSE_PROTOCOL_ERROR)

    def _echo(self) -> None:
        frames = websocket.Frames(masked=True)
        while data := self.rfile.read1(65536):
            frames.feed(data)
            while frame := frames.take():
                if frame.opcode == websocket.CLOSE:
                    self._send(websocket.CLOSE, frame.payload)
                    return
                if frame.opcode == websocket.PING:
                    self._send(websocket.PONG, frame.payload)
                elif frame.opcode == websocket.TEXT:
                    self._send(websocket.TEXT, f"{VERSION}: ".encode() + frame.payload)

    def _send(self, opcode: int, payload: bytes) -> None:
        self.wfile.write(websocket.encode(opcode, payload, masked=False))
        self.wfile.flush()


class Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def _log(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - `proxyctl logs` shows it


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--orders", type=Path, required=True)
    given = parser.parse_args()
    with Server(("127.0.0.1", given.port), partial(Handler, given.orders)) as server:
        _log(f"listening on port {given.port}")
        server.serve_forever()


if __name__ == "__main__":
    main()
