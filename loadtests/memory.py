"""What the proxy costs at rest: workers' memory, idle and for each 1,000 idle connections, and the CPU of `status`.

    python -m loadtests.memory
    python -m loadtests.memory --connections 5000

Needs nothing but the proxy. Resident memory (RSS) counts pages that processes share, such as Python's own, in each.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.machine import conditions, family, free_port, raise_descriptor_limit, rss_bytes
from loadtests.model import Backends
from loadtests.proxyctl import PROXYCTL, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIB = 2**20


def main() -> int:
    options = _options()
    raise_descriptor_limit()
    print(conditions())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proxyctl-memory-")))
        backend, arrived = stack.enter_context(_backend())
        port = free_port()
        backends = Backends(web=backend, bulk=backend, echo=backend)
        ours = serving(folder, backends, {backend: port}, workers=options.workers, health="none")
        pid, control = stack.enter_context(ours)
        workers = family(pid) - {pid}
        idle = rss_bytes(*workers)
        print(f"control process:            {rss_bytes(pid) / _MIB:7.1f} MiB")
        print(f"a worker, idle:             {idle / len(workers) / _MIB:7.1f} MiB  ({len(workers)} workers)")
        count = options.connections
        stack.enter_context(_opened(port, count, arrived))
        grown = rss_bytes(*workers) - idle
        print(f"1,000 idle connections:     {grown / count * 1000 / _MIB:7.1f} MiB  (measured with {count:,})")
        times = sorted(_status_cpu(control) for _ in range(options.status))
        median = statistics.median(times)
        print(f"CPU of `proxyctl status`:   {median * 1000:7.0f} ms   (median of {options.status})")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--status", type=int, default=11, help="how often to run `proxyctl status`")
    return parser.parse_args()


@contextmanager
def _backend() -> Iterator[tuple[int, list[socket.socket]]]:
    """Accept and hold connections; yields the port, and the list that they are added to."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)

    held: list[socket.socket] = []

    def hold() -> None:
        while True:
            try:
                held.append(listener.accept()[0])
            except OSError:  # closed below
                break
        for connection in held:
            connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield listener.getsockname()[1], held
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept, which close does not
        listener.close()
        thread.join()


@contextmanager
def _opened(port: int, count: int, arrived: list[socket.socket]) -> Iterator[None]:
    """Open connections that say nothing, and wait until all of them have reached the backend.

    In the end both sides are closed: one that stays half open is one that the proxy waits for when it is to stop.
    """
    target = len(arrived) + count
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        while len(arrived) < target:
            time.sleep(0.05)
        yield
    while arrived:
        arrived.pop().close()


def _status_cpu(control: Path) -> float:
    """User and system seconds of one `proxyctl status`, Python's own start included."""
    before = os.times()
    command = [*PROXYCTL, "--socket", str(control), "status"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return (after.children_user - before.children_user) + (after.children_system - before.children_system)


if __name__ == "__main__":
    sys.exit(main())
