"""Heads and parts of bodies as long as they may be, and one byte longer."""

from __future__ import annotations

from tests.core.http.conversations.conversation import CHUNKED, Message, asks, chunked, get, head, refused

LIMIT = 64 * 1024
CHUNKS = "Transfer-Encoding: chunked"
POST = "POST / HTTP/1.1"


def long_head(size: int) -> Message:
    empty = len(head("GET / HTTP/1.1", "Host: a", "X-Pad: "))
    return get("/", "X-Pad: " + "a" * (size - empty))


def long_target(size: int) -> Message:
    return get("/" + "a" * (size - len(get().head)))


def long_trailers(size: int) -> bytes:
    return b"X-Pad: " + b"a" * (size - 11) + b"\r\n\r\n"


CONVERSATIONS = [
    asks("a head of 64 KiB", long_head(LIMIT), get()),
    asks("a head of 64 KiB less one", long_head(LIMIT - 1), get()),
    asks("a head of 64 KiB behind another", get(), long_head(LIMIT), get()),
    asks("a head of 64 KiB behind empty lines", get(), Message(long_head(LIMIT).head, lead=b"\r\n" * 9), get()),
    asks("a target of nearly 64 KiB", long_target(LIMIT), get()),
    asks("more empty lines between requests than a head may have", get(), rest=b"\r\n" * 70_000),
    asks("a request behind many empty lines", get(), Message(get().head, lead=b"\r\n" * 70_000)),
    asks("many empty lines first", Message(get().head, lead=b"\r\n" * 70_000), get()),
    refused("a head of 64 KiB and one", long_head(LIMIT + 1).head, status=431),
    refused("a second head of 64 KiB and one", long_head(LIMIT + 1).head, get(), status=431),
    refused("a head of 1 MiB", long_head(1 << 20).head, status=431),
    refused("a target of 64 KiB", long_target(LIMIT + 1).head, status=431),
    refused("a target without end", b"GET /" + b"a" * 70_000, status=431),
    refused("the target without end of another method", b"PROPFIND /" + b"a" * 70_000, status=431),
    refused("a field without end", b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, status=431),
    refused("a name without end", b"GET / HTTP/1.1\r\n" + b"a" * 70_000, status=431),
    refused("fields without end", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 12_000, status=431),
    refused("spaces without end", b" " * 70_000, status=431),
    refused("a method without end", b"M" * 70_000, get(), status=431),
    refused("a method of 65 characters", head("M" * 65 + " / HTTP/1.1"), get()),
    asks("an extension of 4,000 bytes", chunked(POST, b"5;" + b"a" * 4000 + b"\r\nhello\r\n0\r\n\r\n"), get()),
    asks("trailers of 64 KiB", Message(head(POST, CHUNKS), b"0\r\n" + long_trailers(LIMIT), CHUNKED), get()),
    refused("trailers of 64 KiB and one", head(POST, CHUNKS) + b"0\r\n" + long_trailers(LIMIT + 1)),
    refused("an extension without end", head(POST, CHUNKS) + b"5;" + b"a" * 70_000),
    refused("zeros of a size without end", head(POST, CHUNKS) + b"0" * 70_000),
    refused("white space of a size without end", head(POST, CHUNKS) + b"5" + b" " * 70_000),
]
