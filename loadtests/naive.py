"""The naive relay: trio streams, two tasks per connection. It is the yardstick for what the real one is worth.

    python -m loadtests.naive LISTEN BACKEND [LISTEN BACKEND …]

Ports of 127.0.0.1: what connects to a LISTEN port is relayed to the BACKEND port after it.
"""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import trio

from loadtests.machine import answers, running
from loadtests.model import TCP, Relay
from loadtests.started import one_program, public_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from loadtests.model import Backends, Running

_HOST = "127.0.0.1"


async def relay_all(ports: Sequence[tuple[int, int]]) -> None:
    """Serve until SIGTERM. Each pair: where to listen, and the port it is relayed to."""
    async with trio.open_nursery() as nursery:
        for listen, backend in ports:
            serve = partial(trio.serve_tcp, partial(_relay, backend), listen, host=_HOST, backlog=4096)
            nursery.start_soon(serve)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            await anext(signals)
            nursery.cancel_scope.cancel()


async def _relay(backend: int, client: trio.SocketStream) -> None:
    try:
        async with client, await trio.open_tcp_stream(_HOST, backend) as server, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, client, server)
            nursery.start_soon(_copy, server, client)
    except* OSError:  # no backend
        pass
    except* (trio.BrokenResourceError, trio.ClosedResourceError):  # either side has cut it
        pass


async def _copy(source: trio.SocketStream, target: trio.SocketStream) -> None:
    async for data in source:
        await target.send_all(data)
    await target.send_eof()


def naive() -> Relay:
    return Relay("naive TCP", "naive", TCP, 1, _start, lambda: f"trio {trio.__version__}")


@contextmanager
def _start(folder: Path, backends: Backends) -> Iterator[Running]:
    ports = public_ports(backends)
    pairs = chain.from_iterable((public, backend) for backend, public in ports.items())
    command = [sys.executable, "-m", "loadtests.naive", *map(str, pairs)]
    with running(command, log=folder / "log", ready=lambda: answers(ports[backends.web])) as pid:
        yield one_program(pid, ports)


if __name__ == "__main__":
    numbers = [int(port) for port in sys.argv[1:]]
    trio.run(relay_all, list(zip(numbers[::2], numbers[1::2], strict=True)))
