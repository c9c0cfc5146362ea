"""A web server for bodies of any size that costs as little as Python can: it shares its CPUs with what is measured.

    python -m loadtests.scenarios.bulk_server WHERE     # see listening.py; says so once it listens

`GET /bytes/N` answers with N bytes, `PUT /sink` takes a body, throws it away and answers 204. HTTP/1.1, connections are
kept. A body never enters user space: sendfile(2) sends the same MiB of memory again and again, and recv(2) with
MSG_TRUNC drops what came in the kernel (tcp(7)). One blocking thread per connection needs the fewest system calls.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from contextlib import suppress

from loadtests.scenarios.listening import listener_at, say_ready

PIECE = 1 << 20
_HEAD_LIMIT = 1 << 16
_NOTHING = bytes(0)
_GET = re.compile(rb"GET /bytes/(\d+) HTTP/1\.[01]\r\n")
_PUT = re.compile(rb"(?:PUT|POST) /sink HTTP/1\.[01]\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n", re.IGNORECASE)
_NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_NO_LENGTH = b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def send_body(peer: socket.socket, memory: int, count: int) -> None:
    """Send `count` bytes of a blocking socket's body; `memory` is a descriptor of a file of PIECE bytes."""
    while count:
        count -= os.sendfile(peer.fileno(), memory, 0, min(count, PIECE))


def drop_body(peer: socket.socket, count: int) -> None:
    """Receive `count` bytes without looking at them. ConnectionError if the peer ends before."""
    room = bytearray(min(count, PIECE))  # only its size is used
    while count:
        # MSG_WAITALL: one system call for a whole piece, however it arrives.
        taken = peer.recv_into(room, min(count, PIECE), socket.MSG_TRUNC | socket.MSG_WAITALL)
        if not taken:
            raise ConnectionResetError(f"{count} bytes of a body are missing")
        count -= taken


def memory_file() -> int:
    """A descriptor of PIECE bytes of memory, all zero and all there: a hole would be looked up each time."""
    descriptor = os.memfd_create("piece")
    os.write(descriptor, bytes(PIECE))
    return descriptor


def main() -> None:
    memory = memory_file()
    with listener_at(sys.argv[1]) as listener:
        say_ready()
        while True:
            peer, _ = listener.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(peer, memory), daemon=True).start()


def _serve(peer: socket.socket, memory: int) -> None:
    """One connection, until the client is done with it."""
    with peer, suppress(ConnectionError):
        rest = _NOTHING
        while True:
            head, rest = _head(peer, rest)
            if not head:
                return
            if found := _GET.match(head):
                _give(peer, memory, int(found[1]))
            elif _PUT.match(head) and (length := _LENGTH.search(head)):
                rest = _take(peer, rest, int(length[1]), waits=bool(_EXPECT.search(head)))
            else:
                peer.sendall(_NO_LENGTH if _PUT.match(head) else _NOT_FOUND)
                return
            if _CLOSE.search(head):
                return


def _head(peer: socket.socket, data: bytes) -> tuple[bytes, bytes]:
    """The next request's head, empty at the end of the connection, and what came behind it."""
    while (end := data.find(b"\r\n\r\n") + 4) < 4:
        more = peer.recv(_HEAD_LIMIT)
        if not more or len(data) > _HEAD_LIMIT:
            return _NOTHING, _NOTHING
        data += more
    return data[:end], data[end:]


def _give(peer: socket.socket, memory: int, count: int) -> None:
    # MSG_MORE: the head leaves together with the first bytes of the body.
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % count
    peer.sendall(head, socket.MSG_MORE if count else 0)
    send_body(peer, memory, count)


def _take(peer: socket.socket, rest: bytes, count: int, *, waits: bool) -> bytes:
    """Throw a body away, of which `rest` is here already; returns what came behind it."""
    if waits and not rest:
        peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    drop_body(peer, max(0, count - len(rest)))
    peer.sendall(_NO_CONTENT)
    return rest[count:]


if __name__ == "__main__":
    main()
