"""A server as systemd starts one, for tests: it takes its listeners by sd_listen_fds(3), and speaks sd_notify(3).

It answers each connection with a word, and keeps it open until the client closes. SIGTERM: it closes its listeners,
says so, and ends when its connections have. SIGUSR1: it closes them and stays. Words: "silent" never says READY=1,
"child" has a child say it, "busy" says STATUS all the time, "wrong-pid" does not look for whom the listeners are.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
from pathlib import Path

WORD, MANNERS = sys.argv[1], set(sys.argv[2:])
choose = selectors.DefaultSelector()
connections: set[socket.socket] = set()


def notify(text: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


def listen_fds() -> list[socket.socket]:
    if os.environ.get("LISTEN_PID") != str(os.getpid()) and "wrong-pid" not in MANNERS:
        sys.exit("the listeners are not for this process")
    return [socket.socket(fileno=3 + number) for number in range(int(os.environ["LISTEN_FDS"]))]


def stop_listening(*_: object) -> None:
    while listeners:
        sock = listeners.pop()
        choose.unregister(sock)
        sock.close()


def leave(*_: object) -> None:
    stop_listening()
    notify("STOPPING=1")
    MANNERS.add("leaving")


def accept(listener: socket.socket) -> None:
    try:
        connection, _ = listener.accept()
    except BlockingIOError:  # another process was faster
        return
    connections.add(connection)
    choose.register(connection, selectors.EVENT_READ, finish)
    connection.sendall(WORD.encode())


def finish(connection: socket.socket) -> None:
    if not connection.recv(100):
        choose.unregister(connection)
        connection.close()
        connections.discard(connection)


listeners = listen_fds()
for each in listeners:
    each.setblocking(False)
    choose.register(each, selectors.EVENT_READ, accept)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGUSR1, stop_listening)
print(os.environ["LISTEN_FDNAMES"], flush=True)
if "busy" in MANNERS:
    for number in range(100):  # ten times what fits the queue of such a socket
        notify(f"STATUS=at {number}")
if "child" in MANNERS:
    if not os.fork():
        notify("READY=1")
        os._exit(0)
elif "silent" not in MANNERS:
    notify("READY=1\nSTATUS=Serving")
if "busy" in MANNERS:
    for number in range(100):
        notify(f"STATUS=still at {number}")
    Path("said").write_text("it all\n")
reader, writer = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(writer)  # a signal interrupts no select in Python
choose.register(reader, selectors.EVENT_READ, lambda _: os.read(reader, 100))
while not ("leaving" in MANNERS and not connections):
    for key, _ in choose.select():
        key.data(key.fileobj)
