"""Whether the first bytes of a connection are HTTP/1, as far as they have come.

The answer to some bytes holds for whatever follows them. Only what cannot be HTTP/1 is told to be something else: text
that a backend could take for a request must never pass by the rules for requests.
"""

from __future__ import annotations

import enum
import re

from proxy.core.http.head import LIMIT

_WHITE = b" \t\r\n\x0b\x0c"
_METHODS = (
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH",
)  # fmt: skip
_NAME = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}"
_BEGUN_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{0,64}")
_BEGUN_LINE = re.compile(_NAME + rb"[ \t\x0b\x0c][^\x00-\x08\x0e-\x1f\x7f]*")
_CLAIMS_HTTP = re.compile(_NAME + rb"[ \t\x0b\x0c].*HTTP/", re.IGNORECASE | re.DOTALL)
_PREFACE = b"PRI * HTTP/2.0\r\n"  # RFC 9113, 3.4


class Opening(enum.Enum):
    HTTP1 = enum.auto()
    OTHER = enum.auto()
    UNDECIDED = enum.auto()


def judge(data: bytes) -> Opening:
    """Say what these first bytes of a connection begin."""
    text = data.lstrip(_WHITE)
    line, newline, _ = text[:LIMIT].partition(b"\n")
    if data.startswith(_PREFACE):
        return Opening.OTHER
    if newline:
        return Opening.HTTP1 if _CLAIMS_HTTP.match(line) else Opening.OTHER
    if len(text) >= LIMIT:
        return Opening.HTTP1 if _has_known_method(line) else Opening.OTHER
    if _BEGUN_NAME.fullmatch(line) or _BEGUN_LINE.fullmatch(line) or _has_known_method(line):
        return Opening.UNDECIDED
    return Opening.OTHER


def _has_known_method(line: bytes) -> bool:
    return any(line.startswith(method) and line[len(method) : len(method) + 1] in _WHITE for method in _METHODS)
