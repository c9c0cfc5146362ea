"""Clients in the states that the kernel treats apart, and processes that stand still."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.e2e.harness import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def raise_limit() -> None:
    """Let this process have as many descriptors as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Standing:
    """So many clients that have had one answer and stay; use as a context manager."""

    _REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def __init__(self, port: int, count: int, *, host: str = "127.0.0.1") -> None:
        self.sockets: list[socket.socket] = []
        self.answers: list[str] = []
        try:
            for _ in range(count):
                self.sockets.append(socket.create_connection((host, port), PATIENCE))
            self.ask()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for each in self.sockets:
            each.close()

    def ask(self) -> None:
        """Each of them has another answer; OSError or ValueError if one is lost."""
        for each in self.sockets:
            each.sendall(self._REQUEST)
        answers = [each.recv(4096) for each in self.sockets]
        if not all(answer.startswith(b"HTTP/1.1 200") for answer in answers):
            raise ValueError(f"lost: {sum(not answer for answer in answers)} of {len(answers)}")
        self.answers = [answer.decode().rpartition("\r\n")[2] for answer in answers]

    def ended(self) -> int:
        """How many have been ended or reset by the other side, as far as this is known here."""
        poll = select.poll()
        for each in self.sockets:
            poll.register(each, select.POLLIN | select.POLLRDHUP)
        return sum(bool(event & (select.POLLRDHUP | select.POLLHUP | select.POLLERR)) for _, event in poll.poll(0))


_DROP_ALL = struct.pack(
    "=HBBI", 0x06, 0, 0, 0
)  # one classic BPF instruction, `ret #0`: see socket(7), SO_ATTACH_FILTER
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27


class HalfOpen:
    """Clients that have sent a SYN and do not hear the answer: half-open handshakes, and nobody resets them.

    A context manager; `finish` lets them hear again. The listener's next SYN-ACK comes within a second or three.
    """

    def __init__(self, port: int, count: int, *, host: str = "127.0.0.1") -> None:
        self.sockets: list[socket.socket] = []
        for _ in range(count):
            client = socket.socket()
            self.sockets.append(client)
            program = ctypes.create_string_buffer(_DROP_ALL, len(_DROP_ALL))
            client.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))
            client.setblocking(False)
            client.connect_ex((host, port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.sockets:
            client.close()

    def finish(self) -> list[socket.socket]:
        for client in self.sockets:
            client.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, b"\0" * 4)
            client.settimeout(PATIENCE)
        return self.sockets


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[Callable[[], None]]:
    """A process that does nothing; yields what lets it go on."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", what="it stands")

    def go_on() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    try:
        yield go_on
    finally:
        go_on()
