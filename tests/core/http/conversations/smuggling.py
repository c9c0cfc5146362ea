"""Requests that could be read in two ways, as public research has found them: each is refused, and none is passed on.

They all come behind one that is good, so that it also shows that a connection's second request is held to the rules.
"""

from __future__ import annotations

from tests.core.http.conversations.conversation import (
    LENGTH,
    NONE,
    Conversation,
    Message,
    asks,
    chunked,
    get,
    head,
    refused,
    sized,
)

POST = "POST / HTTP/1.1"
EVIL = b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKS = "Transfer-Encoding: chunked"


def fields(name: str, *lines: str, body: bytes = b"0\r\n\r\n" + EVIL) -> Conversation:
    return refused(name, head(POST, "Host: a", *lines) + body, get())


def line(name: str, first: str) -> Conversation:
    return refused(name, head(first, "Host: a"), get())


def coding(value: str) -> Conversation:
    return fields(f"Transfer-Encoding of {value!r}", f"Transfer-Encoding:{value}", body=EVIL)


def length(value: str) -> Conversation:
    return fields(f"Content-Length of {value!r}", f"Content-Length:{value}", body=EVIL)


def chunks(name: str, body: bytes) -> Conversation:
    return refused(f"chunks: {name}", head(POST, "Host: a", CHUNKS) + body, get())


CONVERSATIONS = [
    # Which of the two is it?
    fields("CL.TE", "Content-Length: 6", CHUNKS),
    fields("TE.CL", CHUNKS, "Content-Length: 4"),
    fields("TE.CL with a length of zero", CHUNKS, "Content-Length: 0"),
    fields("CL.TE with an unknown coding", "Content-Length: 6", "Transfer-Encoding: x"),
    fields("CL.TE with identity", "Content-Length: 6", "Transfer-Encoding: identity"),
    fields("CL.TE with an empty coding", "Content-Length: 6", "Transfer-Encoding:"),
    fields("TE.TE, the second unknown", CHUNKS, "Transfer-Encoding: x"),
    fields("TE.TE, the first unknown", "Transfer-Encoding: x", CHUNKS),
    fields("TE.TE, chunked twice", CHUNKS, CHUNKS),
    fields("TE.TE, identity in small letters", CHUNKS, "transfer-encoding: identity"),
    fields("CL.CL, different", "Content-Length: 5", "Content-Length: 6"),
    fields("CL.CL, the same", "Content-Length: 5", "Content-Length: 5"),
    fields("CL.CL, one empty", "Content-Length: 5", "Content-Length:"),
    fields("a length that folds", "Content-Length:", " 5"),
    fields("underscores of CGI: Transfer_Encoding", "Transfer_Encoding: chunked", "Content-Length: 5"),
    fields("underscores of CGI: Content_Length", "Content_Length: 5"),
    # Codings
    coding(" xchunked"),
    coding(" chunkedx"),
    coding(" x"),
    coding(" identity"),
    coding(" gzip"),
    coding(" gzip, chunked"),
    coding(" chunked, gzip"),
    coding(" chunked, identity"),
    coding(" chunked, chunked"),
    coding(" ,chunked"),
    coding(" chunked,"),
    coding(" chunked;q=1"),
    coding(' "chunked"'),
    coding(" 'chunked'"),
    coding(" chun ked"),
    coding(" \x0bchunked"),
    coding(" chunked\x0b"),
    coding(" chunked\x0c"),
    coding(" chunked\x00"),
    coding(" \x00chunked"),
    coding(" chunked\x1f"),
    coding(" \xa0chunked"),
    coding(" chunked\x85"),
    coding(" \xefchunked"),
    coding(""),
    coding("\r\n chunked"),
    coding("\r\n\tchunked"),
    coding("\n chunked"),
    coding(" x\r\n chunked"),
    coding(" cow\r\nTransfer-Encoding: chunked"),
    # Names
    fields("a space before the colon of Transfer-Encoding", "Transfer-Encoding : chunked"),
    fields("a tab before the colon of Transfer-Encoding", "Transfer-Encoding\t: chunked"),
    fields("a space before the colon of Content-Length", "Content-Length : 5"),
    fields("a space before the name", " Transfer-Encoding: chunked"),
    fields("a tab before the name", "X: x", "\tTransfer-Encoding: chunked"),
    fields("a space inside of a name", "Transfer Encoding: chunked"),
    fields("a vertical tab before the name", "X: x", "\x0bTransfer-Encoding: chunked"),
    fields("NUL in a name", "Transfer-Encoding\0: chunked"),
    fields("a control character in a name", "\x01Transfer-Encoding: chunked"),
    fields("a letter beyond ASCII in a name", "Transfer-Enc\xf6ding: chunked"),
    fields("a quoted name", '"Transfer-Encoding": chunked'),
    fields("a name without a colon", "Transfer-Encoding"),
    fields("a name, and its colon on the next line", "Transfer-Encoding", " : chunked"),
    fields("an empty name", ": chunked"),
    fields("a colon before a name", ":Transfer-Encoding: chunked"),
    fields("a name with a bracket", "Transfer-Encoding[]: chunked"),
    # Ends of lines
    fields("bare LF between fields", "X: x\nTransfer-Encoding: chunked"),
    fields("bare LF before a name", "X: x", "\nTransfer-Encoding: chunked"),
    fields("bare CR between fields", "X: x\rTransfer-Encoding: chunked"),
    fields("bare CR before a name", "X: x", "\rTransfer-Encoding: chunked"),
    fields("bare CR behind a value", "X: x\r"),
    fields("bare CR before the colon", "Transfer-Encoding\r: chunked"),
    fields("two bare LF as the end of a head", "X: x\n\nGET /evil HTTP/1.1", "Host: a"),
    fields("LF, CR and LF as the end of a head", "X: x\n\r\nGET /evil HTTP/1.1", "Host: a"),
    fields("a folded field", "X: x", " y"),
    fields("a field folded with a tab", "X: x", "\ty"),
    fields("a folded line of white space only", "X: x", " "),
    fields("NUL in a value", "X: a\0b"),
    fields("a control character in a value", "X: a\x08b"),
    fields("DEL in a value", "X: a\x7fb"),
    refused("bare LF behind a request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", get()),
    refused("bare LF in all of a head", b"GET / HTTP/1.1\nHost: a\n\n", get()),
    refused("bare LF before a request", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", get()),
    refused("bare CR before a request", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", get()),
    refused("a space before a request on a kept connection", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", get()),
    refused("a first request with bare LF", b"GET / HTTP/1.1\nHost: a\n\n"),
    refused("a first request with a bare CR", b"GET / HTTP/1.1\rHost: a\r\n\r\n"),
    # Lengths
    *map(
        length,
        [" +5", " -5", " -0", " 0x5", " 5, 5", " 5,6", " 5,", ",5", " 5 5", " 5;", " 5.0", " 5e0", " 0b1", " 1_0"],
    ),
    *map(
        length,
        ["", " ", " five", " 5\x00", " \x0b5", " 5\x0c", " \xb2", ' "5"', " 18446744073709551616", " " + "9" * 400],
    ),
    # Request lines
    line("HTTP/1.2 behind a good one", "GET / HTTP/1.2"),
    line("HTTP/2.0 behind a good one", "GET / HTTP/2.0"),
    line("HTTP/0.9 behind a good one", "GET / HTTP/0.9"),
    line("no version", "GET /"),
    line("a version with a space behind it", "GET / HTTP/1.1 "),
    line("two versions", "GET / HTTP/1.1 HTTP/1.1"),
    line("a version in small letters", "GET / http/1.1"),
    line("a version with more digits", "GET / HTTP/1.11"),
    line("a version with a sign", "GET / HTTP/+1.1"),
    line("another protocol", "GET / RTSP/1.0"),
    line("no target", "GET HTTP/1.1"),
    line("an empty target", "GET  HTTP/1.1"),
    line("two spaces behind the method", "GET  / HTTP/1.1"),
    line("two spaces before the version", "GET /  HTTP/1.1"),
    line("a tab behind the method", "GET\t/ HTTP/1.1"),
    line("a vertical tab before the version", "GET /\x0bHTTP/1.1"),
    line("a space in the target", "GET /a b HTTP/1.1"),
    line("NUL in the target", "GET /a\0b HTTP/1.1"),
    line("DEL in the target", "GET /a\x7fb HTTP/1.1"),
    line("a bare CR in the target", "GET /a\rb HTTP/1.1"),
    line("a method with a colon", "GET: / HTTP/1.1"),
    line("a method with brackets", "G(E)T / HTTP/1.1"),
    line("no method", " / HTTP/1.1"),
    line("TLS behind a request", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    line("the preface of HTTP/2 behind a request", "PRI * HTTP/2.0"),
    # Hosts
    refused("two Hosts", head("GET / HTTP/1.1", "Host: a", "Host: b"), get()),
    refused("two Hosts that agree", head("GET / HTTP/1.1", "Host: a", "host: a"), get()),
    refused("two Hosts, one empty", head("GET / HTTP/1.1", "Host:", "Host: a"), get()),
    # HTTP/1.0
    refused("Transfer-Encoding in HTTP/1.0", head("POST / HTTP/1.0", CHUNKS) + b"0\r\n\r\n"),
    refused("both in HTTP/1.0", head("POST / HTTP/1.0", CHUNKS, "Content-Length: 5") + b"0\r\n\r\n"),
    # Chunks
    chunks("0x before a size", b"0x5\r\nhello\r\n0\r\n\r\n"),
    chunks("a sign before a size", b"+5\r\nhello\r\n0\r\n\r\n"),
    chunks("a negative size", b"-1\r\nhello\r\n0\r\n\r\n"),
    chunks("a negative zero", b"-0\r\n\r\n"),
    chunks("an underscore in a size", b"1_0\r\nhello\r\n0\r\n\r\n"),
    chunks("no size", b"\r\nhello\r\n0\r\n\r\n"),
    chunks("an extension without a size", b";a\r\nhello\r\n0\r\n\r\n"),
    chunks("a size that is no number", b"G\r\n"),
    chunks("an overflow of 64 bits", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    chunks("a size of 64 bits, all set", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    chunks("a size of sixteen digits, zeros first", b"0000000000000005\r\nhello\r\n0\r\n\r\n"),
    chunks("a space before a size", b" 5\r\nhello\r\n0\r\n\r\n"),
    chunks("a space behind a size", b"5 \r\nhello\r\n0\r\n\r\n"),
    chunks("a tab behind a size", b"5\t\r\nhello\r\n0\r\n\r\n"),
    chunks("a space inside of a size", b"1 0\r\nhello\r\n0\r\n\r\n"),
    chunks("NUL behind a size", b"5\0\r\nhello\r\n0\r\n\r\n"),
    chunks("a vertical tab behind a size", b"5\x0b\r\nhello\r\n0\r\n\r\n"),
    chunks("a bare LF behind a size", b"5\nhello\r\n0\r\n\r\n"),
    chunks("a bare CR behind a size", b"5\rhello\r\n0\r\n\r\n"),
    chunks("two CR behind a size", b"5\r\r\nhello\r\n0\r\n\r\n"),
    chunks("a bare LF in an extension (TERM.EXT)", b"5;\nxxxxx\r\n2d\r\n0\r\n\r\n" + EVIL),
    chunks("a bare CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    chunks("a bare LF in a quoted extension", b'5;a="\n"\r\nhello\r\n0\r\n\r\n'),
    chunks("NUL in an extension", b"5;\0\r\nhello\r\n0\r\n\r\n"),
    chunks("no CRLF behind a chunk", b"5\r\nhello0\r\n\r\n"),
    chunks("a bare LF behind a chunk", b"5\r\nhello\n0\r\n\r\n"),
    chunks("a bare CR behind a chunk (SPILL.TERM)", b"5\r\nhello\r0\r\n\r\n"),
    chunks("two other bytes behind a chunk", b"5\r\nhelloxx0\r\n\r\n"),
    chunks("a chunk that is longer than its size", b"5\r\nhello, world\r\n0\r\n\r\n"),
    chunks("two CRLF behind a chunk", b"5\r\nhello\r\n\r\n0\r\n\r\n"),
    chunks("a bare LF behind the last chunk", b"0\n\r\n"),
    chunks("two bare LF at the end", b"0\r\n\n" + EVIL),
    chunks("a bare CR at the end", b"0\r\n\rX" + EVIL),
    # Trailers
    chunks("a Content-Length in the trailers", b"0\r\nContent-Length: 5\r\n\r\n"),
    chunks("a Transfer-Encoding in the trailers", b"0\r\nX: x\r\ntransfer-encoding: chunked\r\n\r\n"),
    chunks("a Host in the trailers", b"0\r\nHost: b\r\n\r\n"),
    chunks("a bare LF in the trailers", b"0\r\nX: x\n\n" + EVIL),
    chunks("a bare LF as the end of the trailers (TRAILER)", b"0\r\nX: x\r\n\n" + EVIL),
    chunks("a bare CR in the trailers", b"0\r\nX: x\rY: y\r\n\r\n"),
    chunks("a folded trailer", b"0\r\nX: x\r\n y\r\n\r\n"),
    chunks("a space before the colon of a trailer", b"0\r\nX : x\r\n\r\n"),
    chunks("a trailer without a colon", b"0\r\n" + EVIL),
    chunks("NUL in a trailer", b"0\r\nX: \0\r\n\r\n"),
    # What is not ambiguous is not refused: the length says where it ends, and what follows is another request.
    asks("CL.0: a GET with the body of a request", sized("GET / HTTP/1.1", EVIL), get()),
    asks("0.CL: what follows a request without a length is a request", Message(head(POST)), Message(EVIL)),
    asks("a length of nothing before a request", Message(head(POST, "Content-Length: 0"), b"", NONE), Message(EVIL)),
    asks("a field that only looks like one of framing", get("/", "X-Transfer-Encoding: chunked"), Message(EVIL)),
    asks("framing inside of a value", get("/", "X: Content-Length: 5, Transfer-Encoding: chunked"), Message(EVIL)),
    asks("framing inside of a target", get("/?Content-Length:5"), Message(EVIL)),
    refused("Content-Length named by Connection", sized(POST, EVIL, "Connection: Content-Length").wire),
    refused("Host named by Connection", get("/", "Connection: close, host").wire),
    refused("a CONNECT with a body", sized("CONNECT a:1 HTTP/1.1", EVIL, "Host: a").wire),
    refused("a CONNECT with a body in chunks", chunked("CONNECT a:1 HTTP/1.1", b"0\r\n\r\n", "Host: a").wire),
    refused("a claim in a trailer", chunked(POST, b"0\r\nX_Forwarded-For: 127.0.0.1\r\n\r\n", "Host: a").wire),
    asks("Content-Encoding is not framing", Message(head(POST, "Content-Encoding: chunked"), b""), Message(EVIL)),
    asks("TE is not framing", Message(head(POST, "TE: chunked"), b""), Message(EVIL)),
    asks(
        "a chunk with a request inside",
        chunked(POST, b"20\r\n" + EVIL[:32].ljust(32) + b"\r\n0\r\n\r\n"),
        Message(EVIL),
    ),
    asks("a length and a request behind it", Message(head(POST, "Content-Length: 3"), b"x=1", LENGTH), Message(EVIL)),
]
