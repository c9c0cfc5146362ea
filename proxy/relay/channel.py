"""The socket between two workers, on which connections are handed over.

It is a Unix SOCK_SEQPACKET socket (unix(7)), so the kernel keeps the boundaries of frames. A frame is a JSON object,
or, if it begins with RAW, bytes that the next JSON frame refers to: JSON has no bytes, and would make them longer.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
from collections import deque
from select import EPOLLIN, EPOLLOUT
from socket import MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_TRUNC, SCM_RIGHTS, SO_RCVBUF, SO_SNDBUF, SOL_SOCKET
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.relay.engine import Engine
    from proxy.relay.parcel import Parcel
    from proxy.relay.timers import Timer

RAW = b"\0"
PIECE = 128 * 1024  # bytes of a raw frame, below the default net.core.wmem_default (212992)
LONGEST = 64 * 1024  # bytes of JSON for one parcel
DESCRIPTORS = 120  # in a frame, of at most 253 (SCM_MAX_FD)
SIZE = 1024 * 1024  # of the buffers; the kernel gives what net.core.wmem_max allows
RETRY = 0.01  # seconds
GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN})

_FRAME = LONGEST * 2 + PIECE
_ANCILLARY = socket.CMSG_SPACE(array.array("i").itemsize * (DESCRIPTORS + 1))


class Frame(NamedTuple):
    """A JSON object, and the descriptors that came with it, which are the receiver's to close.

    There are fewer of these than were sent when no more fit into this process.
    """

    values: dict[str, Any]
    descriptors: list[int]


class End(Protocol):
    """Who is at this end."""

    def on_frame(self, frame: Frame) -> None:
        """Handle a frame."""
        ...

    def on_room(self) -> None:
        """Everything was sent. Called once for each `want_room`."""
        ...

    def on_gone(self) -> None:
        """Handle that the other end is closed; every frame that it sent was handled before."""
        ...

    def fail(self, error: Exception) -> None:
        """Give up after an error of our own."""
        ...


class Batch:
    """Parcels that travel in one JSON frame, and their bytes."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self.descriptors: list[int] = []
        self._texts: list[str] = []
        self._size = 0
        self._encoder = json.JSONEncoder(default=self._put, separators=(",", ":"))

    def add(self, parcel: Parcel, packed: float) -> None:
        """Add a parcel, packed at that time. Raises ValueError or TypeError for one that cannot travel."""
        descriptors = [sock.fileno() for sock in parcel.sockets]
        text = self._encoder.encode(
            {
                "kind": parcel.kind,
                "service": parcel.service,
                "packed": packed,
                "sockets": len(descriptors),
                "state": parcel.state,
            }
        )
        if len(text) > LONGEST:
            raise ValueError(f"a state of {len(text)} characters")
        self._texts.append(text)
        self._size += len(text)
        self.descriptors += descriptors

    def _put(self, value: object) -> dict[str, list[int]]:
        """Write bytes as the place where they are: offset and length."""
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"{type(value).__name__} cannot travel")
        start = len(self.blob)
        self.blob += value
        return {"@": [start, len(self.blob) - start]}

    @property
    def is_full(self) -> bool:
        return len(self.descriptors) + 2 > DESCRIPTORS or self._size >= LONGEST or len(self.blob) >= PIECE

    @property
    def frame(self) -> bytes:
        return ('{"t":"parcels","parcels":[' + ",".join(self._texts) + "]}").encode()


class Channel:
    """One end of the socket, from now on in the engine."""

    def __init__(self, engine: Engine, sock: socket.socket, end: End) -> None:
        self._engine = engine
        self._sock = sock
        self._end = end
        self._outbox: deque[tuple[Sequence[bytes | memoryview], Sequence[int]]] = deque()
        self._wants_room = False
        self._retry: Timer | None = None
        self._mask = EPOLLIN
        self._blob = bytearray()
        self.is_closed = False
        for option in (SO_SNDBUF, SO_RCVBUF):
            sock.setsockopt(SOL_SOCKET, option, SIZE)
        engine.watch(sock.fileno(), self, EPOLLIN)

    # Sending

    def send(self, **values: Any) -> None:
        """Send a frame, when there is room for it."""
        self._send([json.dumps(values, separators=(",", ":")).encode()], ())

    def send_batch(self, batch: Batch) -> None:
        """Send parcels. Their sockets have to stay open until `on_room`."""
        blob = memoryview(bytes(batch.blob))
        for start in range(0, len(blob), PIECE):
            self._send([RAW, blob[start : start + PIECE]], ())
        self._send([batch.frame], batch.descriptors)

    def want_room(self) -> None:
        """Call `on_room` once everything is sent, or cannot be; not before the next poll."""
        self._wants_room = True
        self._update()

    @property
    def has_sent(self) -> bool:
        """Whether everything is sent, or cannot be."""
        return not self._outbox

    def _send(self, buffers: Sequence[bytes | memoryview], descriptors: Sequence[int]) -> None:
        self._outbox.append((buffers, descriptors))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._outbox:
                buffers, descriptors = self._outbox[0]
                rights = [(SOL_SOCKET, SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
                self._sock.sendmsg(buffers, rights, MSG_DONTWAIT)
                self._outbox.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in GONE:  # reading says so, after what the other end had sent before
                self._outbox.clear()
            else:
                # ETOOMANYREFS: this user has more descriptors on the way than a process may have open. ENOBUFS, ENOMEM.
                self._retry = self._engine.at(self._engine.now + RETRY, self._try_again)
        self._update()

    def _try_again(self) -> None:
        self._retry = None
        self._flush()

    def _update(self) -> None:
        is_waiting = (self._outbox or self._wants_room) and self._retry is None
        mask = EPOLLIN | EPOLLOUT if is_waiting else EPOLLIN
        if mask != self._mask and not self.is_closed:
            self._mask = mask
            self._engine.rewatch(self._sock.fileno(), mask)

    # Events

    def on_event(self, mask: int) -> None:
        if mask & EPOLLOUT and self._retry is None:
            self._flush()
            if self._wants_room and not self._outbox:
                self._wants_room = False
                self._end.on_room()
                self._update()
        if mask & ~EPOLLOUT and not self.is_closed:
            self._receive()

    def fail(self, error: Exception) -> None:
        self._end.fail(error)

    def _receive(self) -> None:
        """Read up to the next JSON frame, or what there is."""
        while True:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(_FRAME, _ANCILLARY, MSG_CMSG_CLOEXEC | MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it is gone, and left something unread; what it sent is still to be read
                continue
            if not data:
                self.close()
                self._end.on_gone()
                return
            descriptors = _descriptors(ancillary)
            if flags & MSG_TRUNC:
                for fd in descriptors:
                    os.close(fd)
                raise ValueError(f"a frame of more than {_FRAME} bytes")
            if not data.startswith(RAW):
                blob, self._blob = bytes(self._blob), bytearray()
                self._end.on_frame(Frame(_decode(data, blob), descriptors))
                return
            self._blob += memoryview(data)[len(RAW) :]

    def close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._outbox.clear()
        self._engine.unwatch(self._sock.fileno())
        self._sock.close()


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _decode(data: bytes, blob: bytes) -> dict[str, Any]:
    """Return a frame's object, with its bytes put back. Raises ValueError."""

    def rebuild(values: dict[str, Any]) -> Any:
        if len(values) == 1 and "@" in values:
            start, size = values["@"]
            if start < 0 or size < 0 or start + size > len(blob):
                raise ValueError("bytes that did not come")
            return blob[start : start + size]
        return values

    values = json.loads(data, object_hook=rebuild)
    if not isinstance(values, dict):
        raise TypeError("a frame is an object")
    return values
