"""The demo's web server, a program of its own: `python -m proxy.cli.demo.backend --port PORT`.

GET /        the version, generation and process that answer
GET /slow    the same, after `SLOW` seconds
"""

from __future__ import annotations

import argparse
import os
import time
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer

SLOW = 5.0  # seconds


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: one request on each connection. The length is announced, so that a cut answer can be told."""

    def do_GET(self) -> None:
        if self.path not in {"/", "/slow"}:
            self.send_error(404, "there are / and /slow")
            return
        if self.path == "/slow":
            _log("a slow request begins")
            time.sleep(SLOW)
        version, generation = os.environ.get("PROXY_VERSION", "?"), os.environ.get("PROXY_GENERATION", "?")
        body = f"{version}, generation {generation}, pid {os.getpid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Version", version)
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Thousands of short requests are not worth a line each."""


class Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def _log(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - `proxyctl logs` shows it


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    with Server(("127.0.0.1", port), Handler) as server:
        _log(f"listening on port {port}")
        server.serve_forever()


if __name__ == "__main__":
    main()
