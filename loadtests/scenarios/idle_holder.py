"""Opens connections, has one response on each, and then only holds them: a client program.

    python -m loadtests.scenarios.idle_holder PORT COUNT

Says "ready" when all are open and idle. When it gets a line on stdin, it closes them, waits until the other side has
done so too, and prints one line of JSON: {"closed": how many had been closed before}.
"""

from __future__ import annotations

import argparse
import select
import socket
from typing import TYPE_CHECKING

from loadtests.machine import raise_descriptor_limit
from loadtests.scenarios.exchange import Http, read_answer
from loadtests.scenarios.told import when_told

if TYPE_CHECKING:
    from collections.abc import Sequence

_SOURCES = 8  # addresses: one has some 28,000 ports (ip_local_port_range), and each rests for a minute after its use
_AT_A_TIME = 64
_PATIENCE = 20.0


def opened(port: int, count: int) -> list[socket.socket]:
    """Connections that have had one response each; a few ask at a time, as clients that come one after the other."""
    exchange, held = Http(), list[socket.socket]()
    for start in range(0, count, _AT_A_TIME):
        batch = [_connect(port, number) for number in range(start, min(start + _AT_A_TIME, count))]
        for connection in batch:
            connection.sendall(exchange.request)
        for connection in batch:
            read_answer(exchange, connection)
        held += batch
    return held


def closed(held: list[socket.socket]) -> int:
    """How many are not open any more. Nobody has anything to say on these: what can be read is an end, or an error."""
    with select.epoll(len(held)) as epoll:
        for connection in held:
            epoll.register(connection, select.EPOLLIN | select.EPOLLRDHUP)
        return len(epoll.poll(0, len(held)))


def close(held: list[socket.socket]) -> None:
    """Close all, and wait for the other side, so that this is over for the relay too."""
    for connection in held:
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            connection.close()
    for connection in held:
        try:
            while connection.fileno() >= 0 and connection.recv(1024):
                pass
        except ConnectionError:
            pass
        connection.close()


def _connect(port: int, number: int) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(_PATIENCE)
    # The port is chosen by connect(2), which knows the other side, so that only the pair has to be free (ip(7)).
    connection.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
    connection.bind((f"127.0.0.{2 + number % _SOURCES}", 0))
    connection.connect(("127.0.0.1", port))
    return connection


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    options = parser.parse_args(arguments)
    raise_descriptor_limit()
    held = opened(options.port, options.count)

    def finish() -> dict[str, float]:
        gone = closed(held)
        close(held)
        return {"closed": float(gone)}

    when_told(finish)


if __name__ == "__main__":
    main()
