"""Many clients at once, of every size, while the route changes under them: nobody loses a byte."""

from __future__ import annotations

import random
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from proxy import wire
from tests.relay.harness import PATIENCE, Listener, connect, read, read_to_end

if TYPE_CHECKING:
    from tests.relay.harness import Service

CLIENTS = 200
SIZES = (0, 1, 100, 1 << 12, (1 << 17) - 1, 1 << 17, (1 << 17) + 1, 1 << 20)


class Server:
    """A backend that reads a request to its end, and answers with its own number, as often as it was asked to."""

    def __init__(self, listener: Listener, number: int) -> None:
        self._number = number
        self._pool = ThreadPoolExecutor(32)
        self._listener = listener
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        self.received: list[int] = []

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.sock.accept()
            sock.settimeout(PATIENCE)
            first = sock.recv(1)
            if first == b"q":
                sock.close()
                return
            self._pool.submit(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            [size] = struct.unpack("!I", read(sock, 4))
            self.received.append(len(read_to_end(sock)) + 5)
            sock.sendall(bytes([self._number]) * (size + 1))

    def stop(self) -> None:
        with connect(self._listener.address) as last:
            last.sendall(b"q")
            self._thread.join()
        self._pool.shutdown()


def ask(address: str, up: int, down: int) -> int:
    """Send and ask for so many bytes; return the number of the server that answered."""
    with connect(address) as sock:
        sock.sendall(b"?" + struct.pack("!I", down))
        sender = threading.Thread(target=lambda: (sock.sendall(bytes(up)), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        answer = read_to_end(sock)
        sender.join()
    assert len(answer) == down + 1
    assert answer == answer[:1] * len(answer), "one connection, one server"
    return answer[0]


def test_a_crowd_is_served_while_the_route_changes(service: Service) -> None:
    dice = random.Random(1)
    sizes = [(dice.choice(SIZES), dice.choice(SIZES)) for _ in range(CLIENTS)]
    listeners = [service.listener(kind) for kind in ("ipv4", "unix", "ipv6")]
    servers = [Server(listener, number) for number, listener in enumerate(listeners)]
    service.route(1, listeners[0])
    try:
        with ThreadPoolExecutor(24) as clients:
            answers = [clients.submit(ask, service.public.address, up, down) for up, down in sizes]
            for generation in range(2, 20):
                answers[generation * 8].result()
                service.hold()
                service.route(generation, listeners[generation % 3])
            served_by = {answer.result() for answer in answers}
    finally:
        for server in servers:
            server.stop()
    assert served_by == {0, 1, 2}
    counts = service.control.counts_when(
        "web", lambda counts: not any(each.active for each in counts.generations.values())
    )
    assert counts.refused == {}
    total = list(counts.generations.values())
    assert sum(each.connections for each in total) == CLIENTS
    up, down = sum(up + 5 for up, _ in sizes), sum(down + 1 for _, down in sizes)
    assert sum(sum(server.received) for server in servers) == up
    assert sum(each.received_client for each in total) == sum(each.sent_backend for each in total) == up
    assert sum(each.received_backend for each in total) == sum(each.sent_client for each in total) == down
    told = {remaining.generation: remaining.connections for remaining in service.control.unasked}
    assert all(connections == 0 for connections in told.values()), "the last word on each drain is that it is over"
    assert wire.Remaining("web", 19, 0) not in service.control.unasked
