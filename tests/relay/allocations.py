"""Prints how many times the relay allocates memory for one kept request: `python -m tests.relay.allocations tcp|http`.

Run with count_mallocs.c preloaded and PYTHONMALLOC=malloc. The relay's own loop runs here, in this process, and nothing
else is counted; what Python takes from its free lists (small tuples, floats) is no allocation.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import socket
import sys

from proxy import wire
from proxy.relay.acceptor import Gate
from proxy.relay.engine import Engine
from proxy.relay.service import Service

WARM_UP = 200
REQUESTS = 1000
REQUEST = b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n" + b"x" * 128


def main(protocol: str) -> None:
    allocations = ctypes.CDLL(None).allocations
    allocations.restype = ctypes.c_ulong
    engine = Engine()
    service = Service("web", engine, Gate(engine, 1000), lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as public:
        endpoint = wire.Endpoint(0, f"127.0.0.1:{listener.getsockname()[1]}")
        http = wire.Http() if protocol == "http" else None
        service.route(wire.Route(1, "web", 1, (endpoint,), version="v1", http=http))
        service.listen("public", public.fileno())
        with socket.create_connection(public.getsockname()) as client:
            client.sendall(REQUEST)
            while not select.select([listener], [], [], 0)[0]:
                engine._pass()
            backend, _ = listener.accept()
            with backend:
                counted = 0
                gc.disable()
                for number in range(WARM_UP + REQUESTS):
                    if number:
                        client.sendall(REQUEST)
                    spent = _until_readable(engine, backend, allocations)
                    os.read(backend.fileno(), 4096)
                    backend.sendall(RESPONSE)
                    spent += _until_readable(engine, client, allocations)
                    os.read(client.fileno(), 4096)
                    counted += spent if number >= WARM_UP else 0
        service.close()
    print(counted / REQUESTS)


def _until_readable(engine: Engine, sock: socket.socket, allocations: ctypes._NamedFuncPointer) -> int:
    """Let the relay work until something has arrived; return how many allocations it made."""
    arrived = select.poll()
    arrived.register(sock, select.POLLIN)
    spent = 0
    while not arrived.poll(0):
        before = allocations()
        engine._pass()
        spent += allocations() - before
    return spent


if __name__ == "__main__":
    main(sys.argv[1])
