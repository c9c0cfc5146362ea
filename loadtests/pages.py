"""What open admin pages cost the control process: the CPU time that it takes with so many of them, in % of one core.

    python -m loadtests.pages
    python -m loadtests.pages --pages 100 --services 50 --seconds 20

Each page is what a browser has open: the event stream with the status. "quiet": nothing happens; "busy": connections
come and go at all services all the time, so that what the pages show changes with each look at the proxy. A browser
fetches the page itself, some 60 KB, once; that is not in it. Needs nothing but the proxy.
"""

from __future__ import annotations

import argparse
import selectors
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.machine import CpuMeter, conditions, free_port, raise_descriptor_limit, wait_until
from loadtests.proxyctl import configured

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_REQUEST = b"GET /v1/events?status=true HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_PACE = 0.02  # seconds between two connections of the load
_SERVICE = """\
[services.service-{number}]
listen = "127.0.0.1:{port}"
active = "v1"
health = {{ type = "none" }}
versions.v1.address = "127.0.0.1:{backend}"
"""


def main() -> int:
    options = _options()
    raise_descriptor_limit()
    print(f"{conditions()}\n{options.services} services; % of one core that the control process takes\n")
    print("| open pages | quiet | busy | bytes/s to a page, busy |")
    print("| ---: | ---: | ---: | ---: |")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proxyctl-pages-")))
        backend = stack.enter_context(_backend())
        ports, admin = [free_port() for _ in range(options.services)], free_port()
        config = "".join(
            _SERVICE.format(number=number, port=port, backend=backend) for number, port in enumerate(ports)
        )
        admin_table = f'[admin]\nlisten = "127.0.0.1:{admin}"\n'
        pid, _ = stack.enter_context(configured(folder, admin_table + config, workers=1))
        for count in (0, options.pages):
            with _open(admin, count) as pages:
                quiet = pages.measure(pid, options.seconds)
                with _busy(ports):
                    busy = pages.measure(pid, options.seconds)
                print(f"| {count} | {quiet:.1f} | {busy:.1f} | {pages.rate:,.0f} |", flush=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--services", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    return parser.parse_args()


class _Pages:
    """All that are open; `rate`: bytes that each received in a second, in the last measurement."""

    def __init__(self, opened: Sequence[socket.socket]) -> None:
        self.rate = 0.0
        self._count = len(opened)
        self._received = 0
        self._begun: set[int] = set()
        self._over = threading.Event()
        self._selector = selectors.DefaultSelector()
        for each in opened:
            self._selector.register(each, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait_until(lambda: len(self._begun) == self._count, "not every page has begun")

    def measure(self, pid: int, seconds: float) -> float:
        """The control process's CPU time, in % of one core."""
        meter, before = CpuMeter(lambda: [pid]), self._received
        self._over.wait(seconds)
        self.rate = (self._received - before) / seconds / max(1, self._count)
        return meter.spent().total / seconds * 100

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._selector.close()

    def _read(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(0.1) if self._count else ():
                if isinstance(key.fileobj, socket.socket):
                    content = key.fileobj.recv(1 << 16)
                    if not content:
                        raise RuntimeError("a page's stream has ended")
                    self._received += len(content)
                    if b"event: status" in content:
                        self._begun.add(key.fd)
            if not self._count:
                self._over.wait(0.1)


@contextmanager
def _open(port: int, count: int) -> Iterator[_Pages]:
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
        for each in opened:
            each.sendall(_REQUEST)
        pages = _Pages(opened)
        try:
            yield pages
        finally:
            pages.close()


@contextmanager
def _busy(ports: Sequence[int]) -> Iterator[None]:
    """Let connections come and go: each service has one more, and then one less."""
    over = threading.Event()

    def come_and_go() -> None:
        held: list[socket.socket] = []
        while not over.is_set():
            for port in ports:
                held.append(socket.create_connection(("127.0.0.1", port)))
                if len(held) > 1.5 * len(ports):
                    held.pop(0).close()
                if over.wait(_PACE):
                    break
        for each in held:
            each.close()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _backend() -> Iterator[int]:
    """Accept, and let go of who leaves; yields the port."""
    listener, over = socket.create_server(("127.0.0.1", 0), backlog=1024), threading.Event()

    def serve() -> None:
        with listener, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while not over.is_set():
                for key, _ in selector.select(0.1):
                    if key.fileobj is listener:
                        selector.register(listener.accept()[0], selectors.EVENT_READ)
                    elif isinstance(key.fileobj, socket.socket):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
            for key in list(selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
