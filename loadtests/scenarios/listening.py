"""How a backend of the load tests gets its listening socket, and says that it has it: WHERE on its command line.

"8080" is a port of 127.0.0.1 to listen on, "fd:3" a descriptor of a socket that listens already, which was inherited.
"""

from __future__ import annotations

import os
import socket

_BACKLOG = 4096
_DESCRIPTOR = "fd:"


def listener_at(where: str) -> socket.socket:
    if where.startswith(_DESCRIPTOR):
        return socket.socket(fileno=int(where.removeprefix(_DESCRIPTOR)))
    return socket.create_server(("127.0.0.1", int(where)), backlog=_BACKLOG)


def say_ready() -> None:
    """On stdout; and to who started this program, if that waits for it (sd_notify(3): NOTIFY_SOCKET)."""
    print("ready", flush=True)
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.sendto(b"READY=1", address.replace("@", "\0", 1) if address.startswith("@") else address)
