"""A small real web server in the test's process, which answers by a script and can be told that a swap has happened."""

from __future__ import annotations

import socketserver
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtests.model import Backends, Running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
_CLOSE = b"Connection: close"


@dataclass(frozen=True)
class Asked:
    """`turn`: which request of its connection, from 0. `is_old`: the connection is older than the swap."""

    head: bytes
    turn: int
    is_old: bool


class Web(socketserver.ThreadingTCPServer):
    """`script` gives the answer, and whether the connection ends with it. `asked`: the heads of all requests."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, script: Callable[[Asked], tuple[bytes, bool]]) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.script = script
        self.swaps = 0
        self.asked: list[bytes] = []

    def swap(self) -> None:
        self.swaps += 1

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def running(self, **more: Callable[[], frozenset[int]]) -> tuple[Running, Backends]:
        """Itself as a relay that is in front of itself; `pids` and `workers` may be given."""
        nobody = {"pids": frozenset, "workers": frozenset} | more
        return Running({self.port: self.port}, swap=self.swap, **nobody), Backends(self.port, self.port, self.port)


class _Connection(socketserver.StreamRequestHandler):
    server: Web

    def handle(self) -> None:
        began, turn, is_over = self.server.swaps, 0, False
        with suppress(ConnectionError):  # clients cut their connections when they end
            while not is_over and (head := self._head()):
                self.server.asked.append(head)
                answer, is_over = self.server.script(Asked(head, turn, self.server.swaps > began))
                if _CLOSE in head:
                    answer, is_over = answer.replace(b"\r\n\r\n", b"\r\n" + _CLOSE + b"\r\n\r\n"), True
                self.wfile.write(answer)
                turn += 1

    def _head(self) -> bytes:
        """Nothing at the end of the connection."""
        lines = []
        while (line := self.rfile.readline()) not in {b"", b"\r\n"}:
            lines.append(line)
        return b"".join(lines)


@contextmanager
def web(script: Callable[[Asked], tuple[bytes, bool]] = lambda _: (GOOD, False)) -> Iterator[Web]:
    with Web(script) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            yield server
        finally:
            server.shutdown()
            serving.join()
