"""The head of an HTTP/1 message: its first line and its fields (RFC 9112).

llhttp reads the fields, and reads them strictly: no bare LF or CR, no space before a colon, no folded lines, no second
Content-Length, none beside Transfer-Encoding. What it would let pass, and what follows for the body, is decided here.
A head is read when all of it is there, so it makes no difference in which pieces it came.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import Final

import httptools

try:  # reads an ordinary head in a fraction of the time, where the installation could compile it
    if os.environ.get("PROXYCTL_PURE") == "1":
        raise ImportError("not wanted")
    from proxy.core.http._scan import VERSION as _VERSION
    from proxy.core.http._scan import scan

    IS_COMPILED = _VERSION == 1  # else it was compiled from other sources
except ImportError:
    IS_COMPILED = False

LIMIT: Final = 64 * 1024  # bytes of a head
CHUNKED: Final = -1  # the lengths of bodies that have none of their own
UNTIL_CLOSE: Final = -2

# Fields that say who the client is begin with one of these, once "_" is read as "-".
CLAIMS: Final = (b"x-forwarded-", b"forwarded", b"x-real-ip")
# Clients repeat themselves: on kept connections the same heads come again and again, and a lookup costs a fraction of
# reading them. Longer ones are not remembered, so that the memory is bounded.
_REMEMBERED = 512
_LONGEST_REMEMBERED = 2048

# No other white space, no other version; what is sent beyond ASCII in a target is the backend's to judge.
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_FINAL_STATUS = re.compile(rb"HTTP/1\.1 ([2-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
# The fields that matter here; most do not, and are not even cut out. Names are lower-case by then.
_RELEVANT = re.compile(
    rb"\n(?:(content[-_]length|transfer[-_]encoding|connection|upgrade|host|expect)"
    rb"|(?:x[-_]forwarded[-_]|forwarded|x[-_]real[-_]ip)[^:]*):([^\r]*)"
)
_ACCEPT = re.compile(rb"\naccept:([^\r]*)", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"\nx-request-id:", re.IGNORECASE)
_AUTHORITY = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?([^/?#@]+)")
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host"})
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110, 9.2.2


class HeadError(ValueError):
    """What was sent is not HTTP/1, or could be read in two ways. `status` is the answer to a client."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class RequestHead:
    """A request's head; `raw` is all of it, as it was received. It is shared, so nothing in it may be changed.

    `length` is that of the body in bytes, or CHUNKED. `has_claims`: some field says who the client is, or means to have
    such fields dropped on the way.
    """

    __slots__ = (
        "_target",
        "expects",
        "has_claims",
        "host",
        "is_connect",
        "is_idempotent",
        "is_usual",
        "keep_alive",
        "length",
        "method",
        "minor",
        "raw",
        "upgrade",
    )

    def __init__(self, raw: bytes, method: str, target: bytes, minor: int, values: dict[bytes, bytes]) -> None:
        """`values` are the fields that matter. Raises HeadError."""
        self.raw = raw
        self.method = method
        self._target = target
        self.minor = minor
        self.is_connect = method == "CONNECT"
        self.is_idempotent = method in _IDEMPOTENT
        self.host = values.get(b"host", b"")
        self.expects = b"expect" in values
        self.has_claims = b"" in values
        if b"content_length" in values or b"transfer_encoding" in values:
            raise HeadError("framing fields with an underscore, which CGI and its heirs read as a hyphen")
        coding = values.get(b"transfer-encoding")
        if coding is not None and (coding.lower() != b"chunked" or not minor):
            raise HeadError("a Transfer-Encoding other than chunked, or one in HTTP/1.0")
        self.length = CHUNKED if coding else int(values.get(b"content-length", 0))
        options = _options(values)
        self.keep_alive = b"close" not in options and (minor > 0 or b"keep-alive" in options)
        self.upgrade = b"upgrade" in options and b"upgrade" in values
        if options is not _KEEP_ALIVE:
            if not _FRAMING.isdisjoint(options):
                raise HeadError("a Connection option that would have a framing field dropped on the way")
            if any(option.replace(b"_", b"-").startswith(CLAIMS) for option in options):
                self.has_claims = True
        if self.is_connect and self.length:
            raise HeadError("a CONNECT with a body, which others take for the beginning of the tunnel")
        if target[:1] != b"/" and (authority := _AUTHORITY.match(target)):
            self.host = authority[1]  # which the target says better than the field (RFC 9112, 3.2.2)
        # Its response has the body that the response says, and more may follow.
        self.is_usual = self.keep_alive and method not in {"HEAD", "CONNECT"}

    # What is seldom asked for

    @property
    def target(self) -> str:
        return self._target.decode("latin-1")

    @property
    def accept(self) -> bytes:
        return b",".join(value.strip() for value in _ACCEPT.findall(self.raw))

    @property
    def has_request_id(self) -> bool:
        return _REQUEST_ID.search(self.raw) is not None


class ResponseHead:
    """A response's head. `length` is what the fields say of the body, in bytes, or CHUNKED, or UNTIL_CLOSE."""

    __slots__ = ("has_connection", "is_interim", "is_usual", "keep_alive", "length", "raw", "status")

    def __init__(self, raw: bytes, status: int, length: int, *, keep_alive: bool, has_connection: bool) -> None:
        self.raw = raw
        self.status = status
        self.length = length
        self.keep_alive = keep_alive
        self.has_connection = has_connection
        self.is_interim = status < 200 and status != 101
        # It ends where its length says (RFC 9112, 6.3), and more may follow.
        self.is_usual = keep_alive and length >= 0 and status >= 200 and status not in {204, 304}


def _relevant(raw: bytes) -> dict[bytes, bytes]:
    """Return the fields that matter by lower-case name, several of one name joined by commas (RFC 9110, 5.3).

    Claims of whatever name are under b"". Raises HeadError for a second Host: nobody knows who would take which.
    """
    values: dict[bytes, bytes] = {}
    for field in _RELEVANT.finditer(raw.lower()):
        name, value = field[1] or b"", raw[field.start(2) : field.end(2)].strip()
        if name not in values:
            values[name] = value
        elif name == b"host":
            raise HeadError("more than one Host")
        else:
            values[name] += b"," + value
    return values


_KEEP_ALIVE = [b"keep-alive"]


def _options(values: dict[bytes, bytes]) -> list[bytes]:
    """The options of the connection, in lower case."""
    value = values.get(b"connection", b"").lower()
    return _KEEP_ALIVE if value == b"keep-alive" else [option.strip() for option in value.split(b",")]


class _Listener:
    """Is told by llhttp that a message is complete."""

    __slots__ = ("has_heard",)

    def __init__(self) -> None:
        self.has_heard = False

    def on_message_complete(self) -> None:
        self.has_heard = True


def _validate(block: bytes) -> None:
    """Raise HeadError unless these bytes are fields, up to and with their empty line.

    Each block has a parser of its own. To use one again would be quicker, but what it remembers of one client's head
    ("Connection: close") would decide about another's.
    """
    listener = _Listener()
    try:
        # The first line is one after which there never is a body, so that the message is complete. The real one was
        # read already: llhttp knows only some methods, and is less strict with white space.
        httptools.HttpResponseParser(listener).feed_data(b"HTTP/1.1 304 \r\n" + block)
    except httptools.HttpParserError as error:
        raise HeadError(str(error)) from None
    if not listener.has_heard:
        raise HeadError("not a whole head")


def _fields(raw: bytes, start: int) -> dict[bytes, bytes]:
    """Return what `_relevant` does, of fields that begin at `start` and are valid. Raises HeadError."""
    if IS_COMPILED and (values := scan(raw, start)) is not None:
        return values
    _validate(raw[start:])
    return _relevant(raw)


def _parse_request(raw: bytes) -> RequestHead:
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise HeadError("not a request line of HTTP/1.0 or HTTP/1.1")
    method, target, minor = line.groups()
    return RequestHead(raw, method.decode(), target, int(minor), _fields(raw, line.end()))


def _parse_response(raw: bytes) -> ResponseHead:
    line = _STATUS_LINE.match(raw)
    if line is None:
        raise HeadError("not a status line of HTTP/1.0 or HTTP/1.1")
    return _response(raw, line, _fields(raw, line.end()))


def _response(raw: bytes, line: re.Match[bytes], values: dict[bytes, bytes]) -> ResponseHead:
    minor, status = int(line[1]), int(line[2])
    if coding := values.get(b"transfer-encoding"):
        # RFC 9112, 6.3: without chunked at the end, the body ends with the connection.
        is_chunked = coding.lower().rpartition(b",")[2].strip() == b"chunked"
        length = CHUNKED if is_chunked else UNTIL_CLOSE
    else:
        length = int(values.get(b"content-length", UNTIL_CLOSE))
    options = _options(values)
    # A Transfer-Encoding in HTTP/1.0 is not to be trusted with more than one message (RFC 9112, 6.1).
    keep_alive = b"close" not in options and (minor > 0 or (b"keep-alive" in options and not coding))
    return ResponseHead(raw, status, length, keep_alive=keep_alive, has_connection=b"connection" in values)


def _glance(raw: bytes) -> ResponseHead | None:
    """Read an ordinary response's head, as most are, in half of the time; return None for any other.

    It has one Content-Length, no Transfer-Encoding, and nothing to say of the connection but whether it is kept.
    Backends are not clients: what else a head has is not ours to judge, as long as nobody can see another length in it.
    """
    text = raw.lower()
    ends = text.count(b"\r\n")
    place = text.find(b"\r\ncontent-length")
    end = text.find(b"\r", place + 18)
    if place < 0 or end < 0 or not text.startswith(b": ", place + 16):
        return None
    length = text[place + 18 : end]
    connection = text.find(b"\r\nconnection")
    closes = connection >= 0 and text.startswith(b": close\r\n", connection + 12)
    if (
        not length.isdigit()
        or len(length) > 15
        or text.find(b"content-length", end) >= 0
        or text.find(b"transfer-encoding") >= 0
        or text.find(b"\r\n ") >= 0  # a folded line
        or text.find(b"\r\n\t") >= 0
        or (connection >= 0 and not closes and not text.startswith(b": keep-alive\r\n", connection + 12))
        or (connection >= 0 and text.find(b"connection", connection + 12) >= 0)
        or text.count(b"\n") != ends
        or text.count(b"\r") != ends
    ):
        return None
    line = _FINAL_STATUS.match(raw)
    if line is None:
        return None
    return ResponseHead(raw, int(line[1]), int(length), keep_alive=not closes, has_connection=connection >= 0)


_known_request = lru_cache(_REMEMBERED)(_parse_request)


def parse_request(raw: bytes) -> RequestHead:
    """Read a request's head, with its empty line. Raises HeadError."""
    return _known_request(raw) if len(raw) <= _LONGEST_REMEMBERED else _parse_request(raw)


def parse_response(raw: bytes) -> ResponseHead:
    """Read a response's head, with its empty line. Raises HeadError."""
    if IS_COMPILED:
        line = _STATUS_LINE.match(raw)
        if line is not None and (values := scan(raw, line.end())) is not None:
            return _response(raw, line, values)
    return _glance(raw) or _parse_response(raw)


def names_of_trailers(block: bytes) -> frozenset[bytes]:
    """Return the lower-case names in a trailer section, which ends with an empty line. Raises HeadError."""
    _validate(block)
    return frozenset(line.partition(b":")[0] for line in block.lower().split(b"\r\n"))
