"""Responses as backends may send them (RFC 9112, RFC 9110), where each ends, and those that are refused."""

from __future__ import annotations

from tests.core.http.conversations.conversation import (
    CHUNKED,
    LENGTH,
    TUNNEL,
    Conversation,
    Message,
    Side,
    answers,
    chunked,
    get,
    head,
    sized,
)

OK = "HTTP/1.1 200 OK"
GOOD = sized(OK, b"hello")


def broken(name: str, *lines: str, body: bytes = b"") -> Conversation:
    return answers(name, rest=head(*lines) + body, end=400)


CONVERSATIONS = [
    answers("a plain response", GOOD, GOOD),
    answers("an empty response", sized(OK, b""), GOOD),
    answers("no reason", sized("HTTP/1.1 200 ", b"hello"), GOOD),
    answers("no reason, and no space before it", sized("HTTP/1.1 200", b"hello"), GOOD),
    answers("a reason in UTF-8", sized("HTTP/1.1 404 Pas trouv\xc3\xa9", b"non"), GOOD),
    answers("a status nobody knows", sized("HTTP/1.1 799 Odd", b"x"), GOOD),
    answers("HTTP/1.0 with a length and keep-alive", sized("HTTP/1.0 200 OK", b"x", "Connection: keep-alive"), GOOD),
    answers("HTTP/1.0 until close", rest=head("HTTP/1.0 200 OK") + b"all of it"),
    answers("HTTP/1.1 until close", rest=head(OK) + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    answers("until close, with Connection: close", rest=head(OK, "Connection: close") + b"all"),
    answers("a response with a length and close", sized(OK, b"hello", "Connection: close")),
    answers("chunked", chunked(OK, b"5\r\nhello\r\n0\r\n\r\n"), GOOD),
    answers("chunked with extensions and trailers", chunked(OK, b"5;a=b\r\nhello\r\n0\r\nDigest: x\r\n\r\n"), GOOD),
    answers("chunked to HTTP/1.0", chunked("HTTP/1.0 200 OK", b"1\r\nx\r\n0\r\n\r\n", "Connection: keep-alive")),
    answers(
        "gzip, then chunked",
        Message(head(OK, "Transfer-Encoding: gzip, chunked"), b"1\r\nx\r\n0\r\n\r\n", CHUNKED),
        GOOD,
    ),
    answers(
        "gzip, then chunked, in two fields",
        Message(head(OK, "Transfer-Encoding: gzip", "Transfer-Encoding: chunked"), b"0\r\n\r\n", CHUNKED),
        GOOD,
    ),
    answers("a coding that is not chunked is until close", rest=head(OK, "Transfer-Encoding: gzip") + b"\x1f\x8b"),
    answers("chunked before another is until close", rest=head(OK, "Transfer-Encoding: chunked, gzip") + b"0\r\n\r\n"),
    answers("HEAD with a length", Message(head(OK, "Content-Length: 1000000")), GOOD, to=("HEAD", "GET")),
    answers("HEAD with chunked", Message(head(OK, "Transfer-Encoding: chunked")), GOOD, to=("HEAD", "GET")),
    answers("HEAD without a length", Message(head(OK)), GOOD, to=("HEAD", "GET")),
    answers("204", Message(head("HTTP/1.1 204 No Content")), GOOD),
    answers("204 with a length that is a lie", Message(head("HTTP/1.1 204 No Content", "Content-Length: 5")), GOOD),
    answers("204 with chunked", Message(head("HTTP/1.1 204 No Content", "Transfer-Encoding: chunked")), GOOD),
    answers("304 with the length of what was not sent", Message(head("HTTP/1.1 304 -", "Content-Length: 5")), GOOD),
    answers("304 without a length", Message(head("HTTP/1.1 304 Not Modified", 'ETag: "x"')), GOOD),
    answers("205 of length 0", sized("HTTP/1.1 205 Reset Content", b""), GOOD),
    answers("206", sized("HTTP/1.1 206 -", b"ell", "Content-Range: bytes 1-3/5"), GOOD),
    answers("301 with a body", sized("HTTP/1.1 301 Moved", b"there", "Location: /there"), GOOD),
    answers("100, then the response", Message(head("HTTP/1.1 100 Continue")), GOOD, to=("POST", "POST")),
    answers("100 with a length", Message(head("HTTP/1.1 100 Continue", "Content-Length: 5")), GOOD, to="POST"),
    answers("102, 103, 103, then the response", *(Message(head(f"HTTP/1.1 {n} -")) for n in (102, 103, 103)), GOOD),
    answers("103 before the response to HEAD", Message(head("HTTP/1.1 103 -")), Message(head(OK)), to="HEAD"),
    answers("an early 413 with close", sized("HTTP/1.1 413 Too Large", b"no", "Connection: close"), to="POST"),
    answers("a body that looks like a response", sized(OK, GOOD.wire), GOOD),
    answers("a field of 30,000 bytes", sized(OK, b"x", "Set-Cookie: " + "a" * 30_000), GOOD),
    answers("a value in UTF-8", sized(OK, b"x", "X-Name: \xc3\xa9"), GOOD),
    answers("an event stream", rest=head(OK, "Content-Type: text/event-stream") + b"data: 1\n\ndata: 2\n\n"),
    answers("101", Message(head("HTTP/1.1 101 -", "Connection: upgrade", "Upgrade: x")), rest=b"\x81\x00", end=TUNNEL),
    answers("CONNECT, 200", Message(head("HTTP/1.1 200 Established")), to="CONNECT", rest=b"\x16\x03", end=TUNNEL),
    answers(
        "CONNECT, 200 with a length", Message(head(OK, "Content-Length: 9")), to="CONNECT", rest=b"\x16\x03", end=TUNNEL
    ),
    answers("CONNECT, 403", sized("HTTP/1.1 403 No", b"no"), GOOD, to=("CONNECT", "GET")),
    answers("a response that breaks off in its head", rest=b"HTTP/1.1 200 OK\r\nContent-Le"),
    answers("a response that breaks off in its body", GOOD, rest=head(OK, "Content-Length: 5") + b"hell"),
    answers("a response that breaks off in a chunk", GOOD, rest=head(OK, "Transfer-Encoding: chunked") + b"5\r\nhel"),
    Conversation("both sides of a pipeline", Side((get("/1"), get("/2"))), Side((GOOD, sized(OK, b"2")))),
    Conversation(
        "both sides of HEAD and GET",
        Side((Message(head("HEAD / HTTP/1.1", "Host: a")), get())),
        Side((Message(head(OK, "Content-Length: 5")), GOOD)),
    ),
    broken("length beside chunked", OK, "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    broken("two lengths", OK, "Content-Length: 5", "Content-Length: 6", body=b"hello!"),
    broken("a list of lengths", OK, "Content-Length: 5, 6", body=b"hello!"),
    broken("a negative length", OK, "Content-Length: -1"),
    broken("a response with a folded field", OK, "A: b", " c"),
    broken("a space before a colon", OK, "Content-Length : 5", body=b"hello"),
    broken("a response with NUL in a value", OK, "A: b\0c"),
    broken("NUL in a reason", "HTTP/1.1 200 O\0K"),
    broken("a response with HTTP/2.0", "HTTP/2.0 200 OK"),
    broken("ICY, as Shoutcast says", "ICY 200 OK"),
    broken("a status of two digits", "HTTP/1.1 20 OK"),
    broken("a status of four digits", "HTTP/1.1 2000 OK"),
    broken("a signed status", "HTTP/1.1 +20 OK"),
    broken("two spaces before the status", "HTTP/1.1  200 OK"),
    broken("an empty line first", "", OK),
    answers("bare line feeds", rest=b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", end=400),
    answers("a bare carriage return", rest=b"HTTP/1.1 200 OK\r\nA: b\rContent-Length: 5\r\n\r\n", end=400),
    answers("a broken size of a chunk", rest=head(OK, "Transfer-Encoding: chunked") + b"5 \r\nhello", end=400),
    answers("a chunk that is too long", rest=head(OK, "Transfer-Encoding: chunked") + b"4\r\nhello\r\n", end=400),
    answers("a broken second response", GOOD, rest=b"hello\r\n\r\n", end=400),
    answers("a head without end", rest=b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000, end=400),
    answers("a cookie of 33 KiB", Message(head(OK, "A: " + "a" * 33_000, "Content-Length: 1"), b"x", LENGTH)),
    answers("no head at all", rest=b"\x00" * 70_000, end=400),
]
