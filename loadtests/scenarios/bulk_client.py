"""One large body down or up over one connection, by a process of its own that costs as little as Python can.

    python -m loadtests.scenarios.bulk_client PORT {down,up} BYTES

Prints the seconds from the request to the last byte (down) or to the answer (up). The exit status is 1, with the
reason on stderr, if fewer bytes came, or the answer was another than expected.
"""

from __future__ import annotations

import socket
import sys
import time

from loadtests.scenarios.bulk_server import drop_body, memory_file, send_body

_HEAD_LIMIT = 1 << 16
_PATIENCE = 60.0  # without one byte of progress, in seconds


def main() -> int:
    port, count = int(sys.argv[1]), int(sys.argv[3])
    transfer = {"down": down, "up": up}[sys.argv[2]]
    try:
        # The kernel's own timeouts: Python's would make the socket non-blocking, with a poll for every call.
        with socket.create_connection(("127.0.0.1", port)) as server:
            _give_up_after(server, _PATIENCE)
            print(transfer(server, count))
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def down(server: socket.socket, count: int) -> float:
    began = time.monotonic()
    server.sendall(b"GET /bytes/%d HTTP/1.1\r\nHost: bulk\r\nConnection: close\r\n\r\n" % count)
    head, body = _head(server)
    _expect(head, b"200")
    drop_body(server, max(0, count - len(body)))
    took = time.monotonic() - began
    if len(body) > count or server.recv(1):
        raise ConnectionError(f"more came than {count} bytes")
    return took


def up(server: socket.socket, count: int) -> float:
    memory = memory_file()
    began = time.monotonic()
    head = b"PUT /sink HTTP/1.1\r\nHost: bulk\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % count
    server.sendall(head, socket.MSG_MORE if count else 0)
    send_body(server, memory, count)
    answer, _ = _head(server)
    took = time.monotonic() - began
    _expect(answer, b"204")
    return took


def _head(server: socket.socket) -> tuple[bytes, bytes]:
    """An answer's head, and what came behind it. ConnectionError if there is none."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = server.recv(_HEAD_LIMIT)
        if not more:
            raise ConnectionResetError("the connection ended without an answer")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def _expect(head: bytes, status: bytes) -> None:
    if head.split(b" ", 2)[1] != status:
        raise ConnectionError(f"not {status.decode()}: {head.decode(errors='replace')}")


def _give_up_after(server: socket.socket, seconds: float) -> None:
    limit = int(seconds).to_bytes(8, sys.byteorder) + bytes(8)  # struct timeval
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


if __name__ == "__main__":
    sys.exit(main())
