"""What h11 says is valid is cut where h11 cuts it; and what is broken raises HeadError, and nothing else.

A few hundred examples by default. With HTTP_FUZZ_SECONDS=600 the same checks go on with new examples until this process
has used that many more seconds of CPU:

    HTTP_FUZZ_SECONDS=600 nice python -m pytest tests/core/http/test_http_fuzz.py -k seconds -s
"""

from __future__ import annotations

import os
import time
from typing import Any

import h11
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from proxy.core.http.head import LIMIT, HeadError
from proxy.core.http.messages import Requests, Responses

SECONDS = float(os.environ.get("HTTP_FUZZ_SECONDS", "1"))

NAMES = st.from_regex(r"[Xx]-[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True)
VALUES = st.from_regex(rb"([!-~\x80-\xff]([ -~\x80-\xff]{0,20}[!-~\x80-\xff])?)?", fullmatch=True)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=4)
BODIES = st.lists(st.binary(min_size=1, max_size=60), max_size=3)
TRAILERS = st.lists(st.tuples(NAMES, VALUES), max_size=2)
SIZES = st.lists(st.integers(1, 80), min_size=1, max_size=20)
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", "get", "M-SEARCH"]
FRAMINGS = st.sampled_from(["none", "length", "chunked"])

Exchange = tuple[str, str, Any, Any, Any, Any, str, int, Any, Any, Any]
EXCHANGES = st.tuples(
    st.sampled_from(METHODS),
    st.from_regex(r"[/*][!-~]{0,20}", fullmatch=True),
    FIELDS,
    FRAMINGS,
    BODIES,
    TRAILERS,
    st.sampled_from(["length", "chunked"]),
    st.sampled_from([200, 201, 204, 304, 404, 500]),
    FIELDS,
    BODIES,
    st.lists(st.sampled_from([100, 102, 103]), max_size=2),
)


def framed(framing: str, fields: Any, body: list[bytes]) -> list[tuple[str, Any]]:
    own = {
        "none": [],
        "length": [("Content-Length", str(sum(map(len, body))))],
        "chunked": [("Transfer-Encoding", "chunked")],
    }[framing]
    return [("Host", "a"), *fields, *own]


def written(connection: h11.Connection, event: Any, body: list[bytes], trailers: Any = ()) -> bytes:
    out = connection.send(event) or b""
    out += b"".join(connection.send(h11.Data(data=chunk)) or b"" for chunk in body)
    return out + (connection.send(h11.EndOfMessage(headers=list(trailers))) or b"")


def generate(exchanges: list[Exchange]) -> tuple[list[bytes], list[bytes], list[str]]:
    """The messages of both sides, as h11 writes them: of each exchange the request, and all of its responses."""
    asked, answered, methods = [], [], []
    client, server = h11.Connection(h11.CLIENT), h11.Connection(h11.SERVER)
    for method, target, fields, framing, content, trailers, reply, status, more, text, interim in exchanges:
        body = content if framing != "none" else []
        request = h11.Request(method=method, target=target, headers=framed(framing, fields, body))
        raw = written(client, request, body, trailers if framing == "chunked" else ())
        asked.append(raw)
        methods.append(method)
        server.receive_data(raw)
        while type(server.next_event()) is not h11.EndOfMessage:
            pass
        out = b"".join(
            server.send(h11.InformationalResponse(status_code=code, headers=[], reason=b"-")) or b"" for code in interim
        )
        shown = [] if method == "HEAD" or status in {204, 304} else text
        response = h11.Response(status_code=status, headers=framed(reply, more, text), reason=b"OK")
        out += written(server, response, shown)
        answered.append(out)
        client.receive_data(out)
        while type(client.next_event()) is not h11.EndOfMessage:
            pass
        client.start_next_cycle()
        server.start_next_cycle()
    return asked, answered, methods


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    found, start = [], 0
    while start < len(data):
        size = sizes[len(found) % len(sizes)]
        found.append(data[start : start + size])
        start += size
    return found


def cut(reader: Requests | Responses, parts: list[bytes], methods: list[str]) -> list[bytes]:
    """Return the messages, and last what is left of one that is not complete. Interim responses stay with theirs."""
    found, message, waiting = [], b"", list(methods)
    if isinstance(reader, Responses):
        reader.expect(waiting.pop(0) if waiting else "GET")
    for part in parts:
        data = memoryview(part)
        while data:
            has_head = reader.head is not None
            taken = reader.take(data)
            assert 0 <= taken <= len(data)
            if isinstance(reader, Requests) and reader.is_foreign:
                assert not found
                assert reader.begun == message + data[:taken]
                return [b"foreign"]
            assert taken == len(data) or reader.is_complete or (reader.head is not None and not has_head)
            assert len(reader.begun) <= LIMIT
            assert len(getattr(reader.body, "_begun", b"")) <= LIMIT
            message += data[:taken]
            data = data[taken:]
            if reader.is_complete:
                assert reader.head is not None
                if isinstance(reader, Requests):
                    reader.next()
                elif reader.head.is_interim:
                    reader.next()
                    continue
                else:
                    reader.expect(waiting.pop(0) if waiting else "GET")
                found.append(message)
                message = b""
    return [*found, message]


def check_valid(exchanges: list[Exchange], sizes: list[int]) -> None:
    asked, answered, methods = generate(exchanges)
    assert cut(Requests(), pieces(b"".join(asked), sizes), methods) == [*asked, b""]
    assert cut(Responses(), pieces(b"".join(answered), sizes), methods) == [*answered, b""]


LARGE = {b"<long>": b"a" * 70_000, b"<lines>": b"\r\n" * 40_000}
SPLICES = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b"\x00",
        b" ",
        b"\t",
        b":",
        b";",
        b",",
        b"0",
        b"-",
        b"+",
        b"0x",
        b"\xff",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Host: b\r\n",
        b"0\r\n\r\n",
        b"HTTP/1.1",
        b"HTTP/2.0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"<long>",
        b"<lines>",
    ]
)
MUTATIONS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 4), SPLICES | st.binary(max_size=4)), min_size=1, max_size=4
)


def outcome(reader: Requests | Responses, parts: list[bytes], methods: list[str]) -> list[bytes] | tuple[str, int]:
    try:
        return cut(reader, parts, methods)
    except HeadError as error:
        return "refused", error.status


def check_broken(exchanges: list[Exchange], mutations: Any, sizes: list[int]) -> None:
    asked, answered, methods = generate(exchanges)
    for sent, reader in ((asked, Requests), (answered, Responses)):
        data = b"".join(sent)
        for where, dropped, choice in mutations:
            at = int(where * len(data))
            splice = LARGE.get(choice, choice)
            data = data[:at] + splice + data[at + dropped :]
        larger = [size * (1 + len(data) // 500) for size in sizes]
        found = outcome(reader(), pieces(data, larger), methods)
        assert found == outcome(reader(), [data], methods)
        if isinstance(found, list) and found != [b"foreign"]:
            assert b"".join(found) == data


valid = given(st.lists(EXCHANGES, min_size=1, max_size=3), SIZES)
broken = given(st.lists(EXCHANGES, min_size=1, max_size=3), MUTATIONS, SIZES)


def _valid(exchanges: list[Exchange], sizes: list[int]) -> None:  # hypothesis marks what it is given
    check_valid(exchanges, sizes)


def _broken(exchanges: list[Exchange], mutations: Any, sizes: list[int]) -> None:
    check_broken(exchanges, mutations, sizes)


_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=25, suppress_health_check=_QUIET)
@valid
def test_valid_traffic_is_cut_where_h11_cuts_it(exchanges: list[Exchange], sizes: list[int]) -> None:
    check_valid(exchanges, sizes)


@settings(max_examples=25, suppress_health_check=_QUIET)
@broken
def test_broken_traffic_is_refused_or_understood_but_never_lost(
    exchanges: list[Exchange], mutations: Any, sizes: list[int]
) -> None:
    check_broken(exchanges, mutations, sizes)


def test_neither_is_otherwise_for_as_many_seconds_as_asked_for() -> None:
    start, rounds = time.process_time(), 0
    options = settings(max_examples=50, database=None, suppress_health_check=list(HealthCheck))
    while time.process_time() - start < SECONDS:
        rounds += 1
        number = int.from_bytes(os.urandom(8))
        print(f"round {rounds}, seed {number}, {time.process_time() - start:.0f} s", flush=True)
        seed(number)(options(valid(_valid)))()
        seed(number)(options(broken(_broken)))()
