"""What HTTP connections cost in a relay's memory: 1,000 that are kept and idle, and 1,000 amid a slow head.

    python -m loadtests.http_memory
    python -m loadtests.http_memory --relays proxyctl --connections 4000 --head-bytes 60000

Leaves out the peers that are not installed; some of them take heads below 16 KiB only. Idle: each connection has had
one response. Slow: each has sent so many bytes of a head, in pieces, and no end. Growth of the resident memory (RSS) of
the process that holds the connections, each time in a fresh relay; what it has freed and keeps for later is in it, the
kernel's own memory for sockets is not.
"""

from __future__ import annotations

import argparse
import re
import selectors
import socket
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.machine import conditions, raise_descriptor_limit, rss_bytes, unread
from loadtests.model import HTTP, Backends
from loadtests.options import pattern
from loadtests.relays import relays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loadtests.model import Relay

    # Takes a relay's public port, and what is connected to it.
    Use = Callable[[int, list[socket.socket]], None]

_MIB = 2**20
_PATIENCE = 20.0  # less than the time that any of them gives a head
_PIECES = 8
_REQUEST = b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n"
_RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_FIELD = b"X-Filling: " + b"x" * 87 + b"\r\n"


def main() -> int:
    options = _options()
    raise_descriptor_limit()
    chosen = _chosen(options.relays)
    if not chosen:
        print(f"--relays {options.relays}: there is none", file=sys.stderr)
        return 2
    print(f"{conditions()}\nMiB; of connections: for each 1,000, measured with {options.connections:,}\n")
    print(f"| relay | worker at rest | kept, idle | {options.head_bytes:,} bytes of a head |")
    print("| --- | ---: | ---: | ---: |")
    for relay in chosen:
        rest, kept = _grown(relay, options.connections, _keep)
        _, slow = _grown(relay, options.connections, lambda port, opened: _dawdle(port, opened, options.head_bytes))
        print(f"| {relay.name} | {rest / _MIB:.1f} | {kept / _MIB:.2f} | {slow / _MIB:.2f} |", flush=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--head-bytes", type=int, default=500)
    parser.add_argument("--relays", default="", type=pattern, metavar="REGEX", help="found in their names")
    return parser.parse_args()


def _chosen(regex: str) -> list[Relay]:
    """Those for HTTP with one worker that can be had; says what is left out, and why."""
    named = [each for each in relays() if re.search(regex, each.name, re.IGNORECASE)]
    asked = [each for each in named if each.protocol == HTTP and each.workers == 1]
    for each in asked:
        if each.missing:
            print(f"left out: {each.name}: {each.missing}", file=sys.stderr)
    return [each for each in asked if not each.missing]


def _grown(relay: Relay, count: int, use: Use) -> tuple[int, float]:
    """A worker's bytes at rest, and how many more for 1,000 connections that are used like this."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proxyctl-memory-")))
        folder.chmod(0o755)
        backend = stack.enter_context(_backend())
        running = stack.enter_context(relay.start(folder, Backends(web=backend, bulk=backend, echo=backend)))
        port = running.ports[backend]
        # What is only allocated once is not the price of a connection.
        with socket.create_connection(("127.0.0.1", port), _PATIENCE) as first:
            use(port, [first])
        rest = rss_bytes(*running.workers())
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", port), _PATIENCE)) for _ in range(count)]
        use(port, opened)
        return rest, (rss_bytes(*running.workers()) - rest) / count * 1000


def _keep(_port: int, opened: list[socket.socket]) -> None:
    """All ask at once, so that each has a backend connection of its own where a relay shares them between requests."""
    for connection in opened:
        connection.sendall(_REQUEST)
    for connection in opened:
        received = b""
        while not received.endswith(b"\r\n\r\nok"):
            received += (more := connection.recv(4096))
            if not more:
                raise RuntimeError(f"a connection was closed after {received!r}")


def _dawdle(port: int, opened: list[socket.socket], size: int) -> None:
    """Send the beginning of a head, in pieces, each read before the next is sent."""
    head = (_REQUEST[:-2] + _FIELD * (size // len(_FIELD) + 1))[:size]
    step = -(-size // _PIECES)
    for start in range(0, size, step):
        for connection in opened:
            connection.sendall(head[start : start + step])
        deadline = time.monotonic() + _PATIENCE
        while (state := unread(port))[1]:
            if time.monotonic() > deadline:
                raise RuntimeError("the relay does not read what it is sent")
            time.sleep(0.02)
        if state[0] < len(opened):
            raise RuntimeError(f"the relay has closed {len(opened) - state[0]} connections that were not done")


@contextmanager
def _backend() -> Iterator[int]:
    """Answer every request, on any number of kept connections; yields the port. Its memory is not looked at."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    wake, woken = socket.socketpair()
    selector.register(woken, selectors.EVENT_READ)

    def serve() -> None:
        while True:
            for key, _ in selector.select():
                if key.fileobj is woken:
                    return
                if key.fileobj is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ, bytearray())
                elif isinstance(key.fileobj, socket.socket) and not _answer(key.fileobj, key.data):
                    selector.unregister(key.fileobj)
                    key.fileobj.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        wake.close()
        thread.join()
        for key in list(selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        selector.close()


def _answer(connection: socket.socket, waiting: bytearray) -> bool:
    """Whether the connection goes on."""
    try:
        more = connection.recv(65536)
        waiting += more
        while (end := waiting.find(b"\r\n\r\n")) >= 0:
            del waiting[: end + 4]
            connection.sendall(_RESPONSE)
    except OSError:
        return False
    return bool(more)


if __name__ == "__main__":
    sys.exit(main())
