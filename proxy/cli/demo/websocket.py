"""As much of the websocket protocol as the demo needs, for both sides (RFC 6455): the handshake, and frames; no I/O.

There are no extensions, so no compression, and a message is one frame: nobody in the demo sends others.
"""

from __future__ import annotations

import base64
import hashlib
import os
from typing import NamedTuple

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA  # opcodes, section 5.2

VERSION = "13"
LONGEST = 4096  # bytes of a payload
CLOSE_NORMAL = (1000).to_bytes(2, "big")  # the payload of a close frame, section 7.4
CLOSE_PROTOCOL_ERROR = (1002).to_bytes(2, "big")

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FINAL = _MASKED = 0x80


class WebsocketError(Exception):
    """What came is not a frame that this side understands."""


class Frame(NamedTuple):
    opcode: int
    payload: bytes


def new_key() -> str:
    """What a client puts into Sec-WebSocket-Key."""
    return base64.b64encode(os.urandom(16)).decode()


def accept_key(key: str) -> str:
    """What the server puts into Sec-WebSocket-Accept, for the client's key (section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.strip().encode() + _GUID).digest()).decode()  # noqa: S324 - as specified


def encode(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """One frame; a client's are masked, a server's are not (section 5.1)."""
    size = len(payload)
    if size > LONGEST:
        raise WebsocketError(f"a message of {size} bytes is too long")
    mask = _MASKED if masked else 0
    length = bytes([mask | size]) if size < 126 else bytes([mask | 126]) + size.to_bytes(2, "big")
    head = bytes([_FINAL | opcode]) + length
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + _mask(payload, key)


class Frames:
    """Cuts what the other side sends into frames."""

    def __init__(self, *, masked: bool) -> None:
        """`masked`: the other side is the client."""
        self._masked = masked
        self._data = b""

    def feed(self, data: bytes) -> None:
        self._data += data

    def take(self) -> Frame | None:
        """The next frame; None where more has to come first. Raises WebsocketError."""
        if len(self._data) < 2:
            return None
        first, second = self._data[:2]
        # The bits below FIN are for extensions; without FIN, the message has more frames.
        if first & 0xF0 != _FINAL or (first & 0x0F) not in {TEXT, CLOSE, PING, PONG}:
            raise WebsocketError("only text in single frames is understood")
        if bool(second & _MASKED) != self._masked:
            raise WebsocketError("a frame that should be masked is not, or the other way round")
        size, start = second & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(self._data[2:4], "big"), 4
        if size == 127 or size > LONGEST:  # 127 announces a length of 64 bits
            raise WebsocketError("a message is too long")
        key = self._data[start : start + 4] if self._masked else b""
        start += 4 * self._masked
        if len(self._data) < start + size:
            return None
        payload, self._data = self._data[start : start + size], self._data[start + size :]
        return Frame(first & 0x0F, _mask(payload, key) if key else payload)


def _mask(payload: bytes, key: bytes) -> bytes:
    """Masking undoes itself (section 5.3)."""
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))
