"""A backend for tests: it greets each client with its word, and keeps the connection until the client ends it.

Arguments: its word, a port, then addresses to listen on. Words among these: "twice" opens two sockets for each address
(SO_REUSEPORT), "deaf" does not accept. SIGUSR1: it opens all of them once more, and closes those before, as servers do
that load their config anew. SIGUSR2: it accepts from now on. A file of the word's name is written once it listens.
"""

from __future__ import annotations

import selectors
import signal
import socket
import sys
from pathlib import Path

WORD, PORT, *REST = sys.argv[1:]
MANNERS = {"twice", "deaf"} & set(REST)
ADDRESSES = [each for each in REST if each not in MANNERS] * (2 if "twice" in MANNERS else 1)
choose = selectors.DefaultSelector()
listeners: list[socket.socket] = []


def listen(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((address, int(PORT)))
    sock.listen(512)
    return sock


def accept_from_now_on(*_: object) -> None:
    for each in listeners:
        choose.register(each, selectors.EVENT_READ)


def open_anew(*_: object) -> None:
    before = listeners[:]
    listeners[:] = [listen(each) for each in ADDRESSES]
    if "deaf" not in MANNERS:
        accept_from_now_on()
    for each in before:
        if "deaf" not in MANNERS:
            choose.unregister(each)
        each.close()


signal.signal(signal.SIGUSR1, open_anew)
signal.signal(signal.SIGUSR2, accept_from_now_on)
open_anew()
Path(WORD).write_text("listens\n")
while True:
    for key, _ in choose.select(1):
        ready = key.fileobj
        assert isinstance(ready, socket.socket)
        if ready in listeners:
            connection, _ = ready.accept()
            connection.sendall(WORD.encode())
            choose.register(connection, selectors.EVENT_READ)
        elif ready.fileno() >= 0:
            try:
                said = ready.recv(100)
            except ConnectionError:
                said = b""
            if not said:
                choose.unregister(ready)
                ready.close()
