"""Whether the first bytes of a connection are HTTP/1, as far as they have come.

The answer to some bytes holds for whatever follows them. Only what cannot be HTTP/1 is told to be something else: text
that a backend could take for a request must never pass by the rules for requests.
"""

from __future__ import annotations

import enum
import re

from proxy.core.http.head import LIMIT

_MOST_WHITE = 1024  # bytes before anything else
_WHITE = b" \t\r\n\x0b\x0c"
_NAME = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_BEGUN_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]*")
_BEGUN_LINE = re.compile(_NAME + rb"[ \t\r\x0b\x0c]")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
# There are servers that split a line at whatever their language calls white space, and that take any word for a method.
_SPACE = rb"[\s\x1c-\x1f\x85\xa0]"
_BEGUN_REQUEST = re.compile(rb"[A-Z][A-Z-]{2,63}" + _SPACE)
# llhttp, and so Node, takes requests of RTSP and ICE too; others read fields and more behind one without a version.
_CLAIMS_HTTP = re.compile(_NAME + _SPACE + rb".*(?:HTTP|RTSP|ICE)/", re.IGNORECASE | re.DOTALL)
_USES_HTTP = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH)" + _SPACE + rb"+[^\s{]")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, 3.4


class Opening(enum.Enum):
    HTTP1 = enum.auto()
    OTHER = enum.auto()
    UNDECIDED = enum.auto()


def judge(data: bytes, seen: int = 0) -> Opening:
    """Say what these first bytes of a connection begin. The first `seen` of them alone were undecided."""
    data = data[:LIMIT]
    text = data.lstrip(_WHITE)
    white = len(data) - len(text)
    if white >= _MOST_WHITE:
        return Opening.HTTP1
    if text.startswith(_PREFACE):
        return Opening.OTHER
    if _PREFACE.startswith(text):
        return Opening.UNDECIDED
    line, newline, _ = text.partition(b"\n")
    new = max(0, seen - white)  # what was seen is not looked at again, or a byte at a time would cost a lot
    if not _BEGUN_NAME.fullmatch(line, new):
        is_text = _BEGUN_LINE.match(line) is not None and not _CONTROL.search(line, new)
        if not is_text and not _BEGUN_REQUEST.match(line):
            return Opening.OTHER
    if newline:
        return Opening.HTTP1 if _CLAIMS_HTTP.match(line) or _USES_HTTP.match(line) else Opening.OTHER
    return Opening.UNDECIDED if len(data) < LIMIT else Opening.HTTP1
