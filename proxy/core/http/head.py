"""The head of an HTTP/1 message: its first line and its fields (RFC 9112).

llhttp reads the fields, and reads them strictly: no bare LF or CR, no space before a colon, no folded lines, no second
Content-Length, none beside Transfer-Encoding. What it would let pass, and what follows for the body, is decided here.
A head is read when all of it is there, so it makes no difference in which pieces it came.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT: Final = 64 * 1024  # bytes of a head
CHUNKED: Final = -1  # the lengths of bodies that have none of their own
UNTIL_CLOSE: Final = -2

# Fields that say who the client is begin with one of these, once "_" is read as "-".
CLAIMS: Final = (b"x-forwarded-", b"forwarded", b"x-real-ip")

Parser = httptools.HttpRequestParser | httptools.HttpResponseParser

# Clients repeat themselves: on kept connections the same heads come again and again, and a lookup costs a fraction of
# reading them. Longer ones are not remembered, so that the memory is bounded.
_REMEMBERED = 512
_LONGEST_REMEMBERED = 2048

# No other white space, no other version; what is sent beyond ASCII in a target is the backend's to judge.
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
# The fields that matter here; most do not, and are not even cut out. Names are lower-case by then.
_RELEVANT = re.compile(
    rb"\n(?:(content[-_]length|transfer[-_]encoding|connection|upgrade|host|accept|x-request-id)"
    rb"|(?:x[-_]forwarded[-_]|forwarded|x[-_]real[-_]ip)[^:]*):([^\r]*)"
)
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
        "accept",
        "has_claims",
        "has_request_id",
        "host",
        "is_connect",
        "is_idempotent",
        "is_usual",
        "keep_alive",
        "length",
        "method",
        "minor",
        "raw",
        "target",
        "upgrade",
    )

    def __init__(self, raw: bytes, method: str, target: str, minor: int) -> None:
        """Raises HeadError."""
        values = _relevant(raw)
        self.raw = raw
        self.method = method
        self.target = target
        self.minor = minor
        self.is_connect = method == "CONNECT"
        self.is_idempotent = method in _IDEMPOTENT
        self.host = values.get(b"host", b"")
        self.accept = values.get(b"accept", b"")
        self.has_request_id = b"x-request-id" in values
        self.has_claims = b"" in values
        if b"content_length" in values or b"transfer_encoding" in values:
            raise HeadError("framing fields with an underscore, which CGI and its heirs read as a hyphen")
        coding = values.get(b"transfer-encoding")
        if coding is not None and (coding.lower() != b"chunked" or not minor):
            raise HeadError("a Transfer-Encoding other than chunked, or one in HTTP/1.0")
        self.length = CHUNKED if coding else int(values.get(b"content-length", 0))
        self.keep_alive = minor > 0
        self.upgrade = False
        if b"connection" in values:
            options = _options(values)
            self.keep_alive = b"close" not in options and (minor > 0 or b"keep-alive" in options)
            self.upgrade = b"upgrade" in values and b"upgrade" in options
            self.has_claims = self.has_claims or any(
                option.replace(b"_", b"-").startswith(CLAIMS) for option in options
            )
        # Its response has the body that the response says, and more may follow.
        self.is_usual = self.keep_alive and method not in {"HEAD", "CONNECT"}


class ResponseHead:
    """A response's head. `length` is what the fields say of the body, in bytes, or CHUNKED, or UNTIL_CLOSE."""

    __slots__ = ("has_connection", "is_interim", "is_usual", "keep_alive", "length", "raw", "status")

    def __init__(self, raw: bytes, status: int, minor: int) -> None:
        """Raises HeadError."""
        values = _relevant(raw)
        self.raw = raw
        self.status = status
        self.is_interim = status < 200 and status != 101
        if coding := values.get(b"transfer-encoding"):
            # RFC 9112, 6.3: without chunked at the end, the body ends with the connection.
            is_chunked = coding.lower().rpartition(b",")[2].strip() == b"chunked"
            self.length = CHUNKED if is_chunked else UNTIL_CLOSE
        else:
            self.length = int(values.get(b"content-length", UNTIL_CLOSE))
        self.has_connection = b"connection" in values
        self.keep_alive = minor > 0
        if self.has_connection:
            options = _options(values)
            # A Transfer-Encoding in HTTP/1.0 is not to be trusted with more than one message (RFC 9112, 6.1).
            self.keep_alive = b"close" not in options and (minor > 0 or (b"keep-alive" in options and not coding))
        # It ends where its length says (RFC 9112, 6.3), and more may follow.
        self.is_usual = self.keep_alive and self.length >= 0 and status >= 200 and status not in {204, 304}


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


def _options(values: dict[bytes, bytes]) -> list[bytes]:
    """The options of the connection."""
    return [option.strip() for option in values[b"connection"].lower().split(b",")]


class _Listener:
    """Is told by llhttp that it has read a whole head."""

    __slots__ = ("has_heard",)

    def __init__(self) -> None:
        self.has_heard = False

    def on_headers_complete(self) -> None:
        self.has_heard = True


def _validate(head: bytes, parser: Callable[[_Listener], Parser]) -> None:
    """Raise HeadError unless these bytes are a valid head."""
    listener = _Listener()
    try:
        parser(listener).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # its way to say that other bytes may follow
    except httptools.HttpParserError as error:
        raise HeadError(str(error)) from None
    if not listener.has_heard:
        raise HeadError("not a whole head")


def _parse_request(raw: bytes) -> RequestHead:
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise HeadError("not a request line of HTTP/1.0 or HTTP/1.1")
    method, target, minor = line.groups()
    # llhttp knows only some methods, and is less strict with white space: the line was read better already.
    _validate(b"GET / HTTP/1.1\r\n" + raw[line.end() :], httptools.HttpRequestParser)
    return RequestHead(raw, method.decode("ascii"), target.decode("latin-1"), int(minor))


def _parse_response(raw: bytes) -> ResponseHead:
    line = _STATUS_LINE.match(raw)
    if line is None:
        raise HeadError("not a status line of HTTP/1.0 or HTTP/1.1")
    minor, status = line.groups()
    _validate(b"HTTP/1.1 200 OK\r\n" + raw[line.end() :], httptools.HttpResponseParser)
    return ResponseHead(raw, int(status), int(minor))


_known_request = lru_cache(_REMEMBERED)(_parse_request)
_known_response = lru_cache(_REMEMBERED)(_parse_response)


def parse_request(raw: bytes) -> RequestHead:
    """Read a request's head, with its empty line. Raises HeadError."""
    return _known_request(raw) if len(raw) <= _LONGEST_REMEMBERED else _parse_request(raw)


def parse_response(raw: bytes) -> ResponseHead:
    """Read a response's head, with its empty line. Raises HeadError."""
    return _known_response(raw) if len(raw) <= _LONGEST_REMEMBERED else _parse_response(raw)


def names_of_trailers(block: bytes) -> frozenset[bytes]:
    """Return the lower-case names in a trailer section, which ends with an empty line. Raises HeadError."""
    _validate(b"GET / HTTP/1.1\r\n" + block, httptools.HttpRequestParser)
    return frozenset(line.partition(b":")[0] for line in block.lower().split(b"\r\n"))
