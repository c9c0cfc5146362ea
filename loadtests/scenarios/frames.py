"""As much of the websocket protocol as the load tests need (RFC 6455): the handshake, and frames; no I/O."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA  # opcodes, section 5.2
FINAL = 0x80
OPCODE = 0x0F
_RESERVED = 0x70  # bits for extensions, of which there are none
LONGEST = 1 << 20  # bytes of a frame's payload

_MASKED = 0x80
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class FrameError(Exception):
    """What came is no frame of a client; `status` is what a close frame says about it (section 7.4.1)."""

    def __init__(self, status: int) -> None:
        super().__init__(f"close with {status}")
        self.status = status


class Frame(NamedTuple):
    first: int  # FIN, the reserved bits and the opcode, as they came
    payload: bytes
    size: int  # bytes of all of the frame


def new_key() -> str:
    """What a client puts into Sec-WebSocket-Key."""
    return base64.b64encode(os.urandom(16)).decode()


def accept_key(key: str) -> str:
    """What the server puts into Sec-WebSocket-Accept, for the client's key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()


def fields(head: bytes) -> Mapping[str, str]:
    """The fields of an HTTP head, by their names in lower case; its first line is ''."""
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return {"": first} | {name.lower(): value.strip() for name, _, value in pairs}


def server_frame(first: int, payload: bytes) -> bytes:
    """A frame that is not masked. `first`: FIN and the opcode."""
    return bytes((first,)) + _length(len(payload), 0) + payload


def client_frame(first: int, payload: bytes, mask: bytes | None = None) -> bytes:
    """A masked frame (section 5.3). `mask`: four bytes; random where none are given."""
    mask = os.urandom(4) if mask is None else mask
    return bytes((first,)) + _length(len(payload), _MASKED) + mask + _masked(payload, mask)


def take(data: bytes, at: int = 0) -> Frame | None:
    """The frame of a client that starts `at` there, unmasked; None where more has to come. Raises FrameError."""
    if len(data) < at + 6:
        return None
    first, size, start = data[at], data[at + 1] & 0x7F, at + 6
    if first & _RESERVED or not data[at + 1] & _MASKED:
        raise FrameError(1002)
    if first & 0x08 and (size > 125 or not first & FINAL):
        raise FrameError(1002)  # a control frame is short and whole, section 5.5
    if size >= 126:
        start += 2 if size == 126 else 8
        size = int.from_bytes(data[at + 2 : start - 4], "big")
    if size > LONGEST:
        raise FrameError(1009)
    end = start + size
    if len(data) < end:
        return None
    return Frame(first, _masked(data[start:end], data[start - 4 : start]), end - at)


def _length(size: int, bit: int) -> bytes:
    """The second byte of a frame, and what follows where the size does not fit into it."""
    if size < 126:
        return bytes((bit | size,))
    if size < 1 << 16:
        return bytes((bit | 126,)) + size.to_bytes(2, "big")
    return bytes((bit | 127,)) + size.to_bytes(8, "big")


def _masked(data: bytes, mask: bytes) -> bytes:
    """Exclusive or with the mask, over and over; as one long number, because that is one step for Python."""
    size = len(data)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")
