"""Who the client is: the fields by which a backend learns what the connection from the proxy does not show.

X-Forwarded-For, -Proto and -Host belong to no standard. They are what frameworks read. X-Forwarded-For is a list: each
proxy adds whom it was called by, so that only what stands at its end was written by somebody whom the backend knows.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from proxy.core.http.head import CLAIMS

if TYPE_CHECKING:
    from proxy.core.http.head import RequestHead

OFF: Final = "off"
APPEND: Final = "append"
REPLACE: Final = "replace"
MODES: Final = (OFF, APPEND, REPLACE)

_FOR = b"x-forwarded-for"
_PROTO = b"x-forwarded-proto"
_HOST = b"x-forwarded-host"
_ONLY_PROTO = b"X-Forwarded-Proto: http\r\n"
_WHITE = b" \t"


class Forwarding:
    """What of a request's head is rewritten.

    "off" says nothing of the client. "append" trusts what is there, and adds to it: right behind another proxy.
    "replace" drops what is there: right where clients connect directly. With `request_id`, a request that has no
    X-Request-Id gets one of 32 hexadecimal digits.
    """

    def __init__(self, mode: str, *, request_id: bool) -> None:
        if mode not in MODES:
            raise ValueError(f"not a way to forward: {mode!r}")
        self._mode = mode
        self.is_unique = request_id  # the same head is rewritten in another way each time

    def rewrite(self, head: RequestHead, client: str) -> bytes:
        """Return the head to send; bytes that are not said to change stay as they are, and in their order.

        `client` is an IP address, or "" where there is none to tell (a Unix socket).
        """
        added = _request_id() if self.is_unique and not head.has_request_id else b""
        if self._mode == OFF:
            return head.raw[:-2] + added + b"\r\n" if added else head.raw
        if head.has_claims:
            return self._correct(head, client, added)
        # Nearly every request comes this way.
        told = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: http\r\n" % client.encode() if client else _ONLY_PROTO
        if head.host:
            return b"%b%bX-Forwarded-Host: %b\r\n%b\r\n" % (head.raw[:-2], told, head.host, added)
        return b"%b%b%b\r\n" % (head.raw[:-2], told, added)

    def _correct(self, head: RequestHead, client: str, added: bytes) -> bytes:
        """Rewrite a head that speaks of who the client is."""
        first, *fields = head.raw[:-4].split(b"\r\n")
        lines = [first]
        said: set[bytes] = set()
        path: list[bytes] = []  # the values of X-Forwarded-For
        place = 0  # where its first one stood
        for line in fields:
            name, _, value = line.partition(b":")
            name = _plain(name)
            if name == b"connection":
                lines += _without_claims(line)
            elif not name.startswith(CLAIMS):
                lines.append(line)
            elif self._mode == APPEND:
                said.add(name)
                if name == _FOR and client:
                    place = place or len(lines)
                    path.append(value.strip(_WHITE))
                else:
                    lines.append(line)
        if client:
            whole = b", ".join(part for part in (*path, client.encode()) if part)
            lines.insert(place or len(lines), b"X-Forwarded-For: " + whole)
        if _PROTO not in said:
            lines.append(b"X-Forwarded-Proto: http")
        if _HOST not in said and head.host:
            lines.append(b"X-Forwarded-Host: " + head.host)
        return b"\r\n".join(lines) + b"\r\n" + added + b"\r\n"


def _plain(name: bytes) -> bytes:
    """A field's name as CGI and its heirs read it: to them, "-" and "_" are the same."""
    return name.lower().replace(b"_", b"-")


def _without_claims(line: bytes) -> list[bytes]:
    """Take out of a Connection field what would make the next proxy drop the fields that tell who the client is.

    A client may name any field there, to be dropped on the way (RFC 9110, 7.6.1). A line with nothing else goes.
    """
    name, _, value = line.partition(b":")
    options = value.split(b",")
    honest = [option for option in options if not _is_claim(option)]
    if len(honest) == len(options):
        return [line]
    return [name + b":" + b",".join(honest)] if any(option.strip(_WHITE) for option in honest) else []


def _is_claim(option: bytes) -> bool:
    return _plain(option.strip(_WHITE)).startswith(CLAIMS)


def _request_id() -> bytes:
    return b"X-Request-Id: %b\r\n" % os.urandom(16).hex().encode()
