"""A small HTTP server that is given its listeners as by systemd (sd_listen_fds(3)), and says READY=1 (sd_notify(3)).

It accepts in calls that block, one thread for each listener. SIGTERM: it closes its listeners, serves the connections
that it has accepted until their clients end them, and exits. None that it has accepted is lost on the way.

Every `GET` is answered `VERSION GENERATION REPLICA PID LISTEN_FDS LISTEN_FDNAMES N`, with the number of the descriptor
that the connection came in at.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import select
import signal
import socket
import threading
import time

FIRST = 3  # SD_LISTEN_FDS_START
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    options = _parser().parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in all threads: only sigwait takes it
    signal.signal(signal.SIGUSR1, lambda *_: None)  # so that a call that blocks can be interrupted: EINTR, signal(7)
    listeners = _inherited(options.fd) + ([_private(options.port)] if options.port else [])
    server = Server(listeners, lenient=options.lenient)
    if options.status:
        notify(f"STATUS={options.status}")
    time.sleep(options.late)
    server.start()
    if not options.mute:
        notify("READY=1")
    signal.sigwait({signal.SIGTERM})
    print("told to stop", flush=True)
    while options.stubborn:
        signal.pause()
    server.stop(shutdown=options.shutdown, close=not options.keep)


class Server:
    def __init__(self, listeners: list[socket.socket], *, lenient: bool) -> None:
        self._listeners = listeners
        self._is_lenient = lenient
        self._is_stopping = False
        names = ("PROXY_VERSION", "PROXY_GENERATION", "PROXY_REPLICA", "LISTEN_FDS", "LISTEN_FDNAMES")
        *about, count, fdnames = (os.environ.get(name, "-") for name in names)
        self._name = " ".join([*about, str(os.getpid()), count, fdnames])
        self._accepting = [threading.Thread(target=self._accept, args=(each,)) for each in listeners]

    def start(self) -> None:
        for each in self._accepting:
            each.start()

    def stop(self, *, shutdown: bool, close: bool) -> None:
        """Returns when nothing accepts any more. The process ends with the last of its connections."""
        self._is_stopping = True
        for listener in self._listeners if shutdown else ():
            listener.shutdown(socket.SHUT_RDWR)
        for each in self._accepting:
            while each.is_alive():
                signal.pthread_kill(each.ident or 0, signal.SIGUSR1)
                each.join(0.01)
        for listener in self._listeners if close else ():
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        """By accept(2) itself: Python's own repeats a call that was interrupted."""
        while not self._is_stopping:
            number = _libc.accept4(listener.fileno(), None, None, socket.SOCK_CLOEXEC)
            if number >= 0:
                arguments = (socket.socket(fileno=number), listener.fileno())
                threading.Thread(target=self._serve, args=arguments).start()
            elif ctypes.get_errno() == errno.EINVAL:  # somebody else has shut it down
                time.sleep(0.01)
            elif ctypes.get_errno() == errno.EAGAIN and self._is_lenient:
                select.select([listener], [], [], 0.02)
            elif ctypes.get_errno() != errno.EINTR:
                print("accept:", errno.errorcode[ctypes.get_errno()], flush=True)
                os._exit(3)

    def _serve(self, connection: socket.socket, listener: int) -> None:
        body = f"{self._name} {listener}".encode()
        try:
            with connection, connection.makefile("rb") as lines:
                while lines.readline():
                    headers = [header.strip().lower() for header in iter(lines.readline, b"\r\n")]
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                    if b"connection: close" in headers:
                        return
        except OSError:
            return


def notify(message: str) -> None:
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode(), path)


def _inherited(first: int | None) -> list[socket.socket]:
    if "LISTEN_FDS" not in os.environ:
        return []
    assert os.environ["LISTEN_PID"] == str(os.getpid()), "they are another process's"
    assert first in {None, FIRST}, "{fd} is the first of them"
    return [socket.socket(fileno=FIRST + number) for number in range(int(os.environ["LISTEN_FDS"]))]


def _private(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=1024)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, help="what {fd} is")
    parser.add_argument("--port", type=int, help="listen there too")
    parser.add_argument("--keep", action="store_true", help="at the end, accept no more, but leave listeners open")
    parser.add_argument("--late", type=float, default=0.0, help="seconds before it accepts")
    parser.add_argument("--lenient", action="store_true", help="a listener need not block")
    parser.add_argument("--status", help="say this as STATUS")
    parser.add_argument("--mute", action="store_true", help="never say READY=1")
    parser.add_argument("--stubborn", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--shutdown", action="store_true", help="at the end, shut listeners down for everybody")
    return parser


if __name__ == "__main__":
    main()
