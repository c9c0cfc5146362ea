"""What is read in one pass means the same as what is read with care; and what it leaves alone is read with care."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.http import head
from tests.tools import missing

if TYPE_CHECKING:
    from collections.abc import Callable

LINE = b"GET / HTTP/1.1\r\n"
NAMES = (
    b"Content-Length", b"content_length", b"Transfer-Encoding", b"transfer_encoding", b"Connection", b"Host", b"host",
    b"Upgrade", b"Expect", b"X-Forwarded-For", b"x_forwarded_proto", b"Forwarded", b"forwardedby", b"X-Real-IP",
    b"X-Other", b"Cookie", b"Content-Type", b"c", b"", b" Host", b"Host ", b"Ho st", b"X\x80", b"X\x00",
)  # fmt: skip
VALUES = (
    b"1", b"128", b"007", b"", b"-1", b"1,1", b"+1", b"0x1", b"1" * 15, b"1" * 16, b"close", b"keep-alive",
    b"Keep-Alive, TE", b"chunked", b"example.com:80", b"a\tb", b"a\x80\xff", b"a\x00", b"a\x7f", b"a\rb", b"a\nb",
    b"a\r\n b", b"100-continue",
)  # fmt: skip
SPACES = (b"", b" ", b"\t", b"  \t ")


@pytest.fixture(scope="module")
def scan() -> Callable[[bytes, int], dict[bytes, bytes] | None]:
    try:
        found: Any = importlib.import_module("proxy.core.http._scan")
    except ImportError:
        missing("nothing was compiled: pip install -e . with a C compiler (apt-get install gcc python3-dev)")
    return found.scan  # type: ignore[no-any-return]


def with_care(raw: bytes, start: int) -> dict[bytes, bytes]:
    head._validate(raw[start:])
    return head._relevant(raw)


def agrees(scan: Callable[[bytes, int], dict[bytes, bytes] | None], raw: bytes, start: int) -> None:
    values = scan(raw, start)
    if values is not None:
        expected = with_care(raw, start)
        assert values.keys() == expected.keys()
        assert {name: value for name, value in values.items() if name} == {
            name: value for name, value in expected.items() if name
        }


fields = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(SPACES), st.sampled_from(VALUES), st.sampled_from(SPACES)),
    max_size=5,
)


@given(fields=fields)
def test_fields_mean_the_same(scan: Any, fields: list[tuple[bytes, bytes, bytes, bytes]]) -> None:
    block = b"".join(name + b":" + before + value + after + b"\r\n" for name, before, value, after in fields)
    agrees(scan, LINE + block + b"\r\n", len(LINE))


@given(block=st.binary(max_size=60))
@example(block=b"Host: a\r\n\r\n\r\n")
@example(block=b"Host: a\r\n\r\nX: y\r\n\r\n")
@example(block=b"Host: a\n\n")
@example(block=b"\r\n")
@example(block=b"")
def test_any_bytes_mean_the_same(scan: Any, block: bytes) -> None:
    agrees(scan, LINE + block, len(LINE))
    agrees(scan, LINE + block + b"\r\n\r\n", len(LINE))


@given(block=st.text("aA-_:;, \t\r\n\x00\x7f19", max_size=40), name=st.sampled_from(NAMES))
def test_bytes_that_look_like_fields_mean_the_same(scan: Any, block: str, name: bytes) -> None:
    agrees(scan, LINE + name + b":" + block.encode() + b"\r\n\r\n", len(LINE))


@pytest.mark.parametrize(
    "block",
    [
        b"Host: example.com\r\nUser-Agent: curl/8\r\nAccept: */*\r\n",
        b"HOST:a\r\nContent-Length:  12 \r\nConnection: keep-alive\r\n",
        b"host: a\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nForwarded: for=10.0.0.1\r\n",
        b"Host: a\r\nCookie: a=\xc3\xa4; b=1\r\nExpect: 100-continue\r\n",
        b"",
    ],
)
def test_ordinary_heads_are_read_in_one_pass(scan: Any, block: bytes) -> None:
    """Else it would be of no use."""
    raw = LINE + block + b"\r\n"
    assert scan(raw, len(LINE)) is not None
    agrees(scan, raw, len(LINE))


@pytest.mark.parametrize(
    "block",
    [
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 1\r\nContent-Length: 1\r\n",
        b"Content_Length: 1\r\n",
        b"Content-Length: 1 1\r\n",
        b"Host: a\r\nHost: b\r\n",
        b"Connection: close\r\nConnection: keep-alive\r\n",
        b"Upgrade: websocket\r\n",
        b"Host : a\r\n",
        b"Host: a\r\n b\r\n",
        b"Host: a\rb\r\n",
        b"Host: a\nb\r\n",
        b"Host: a\x00\r\n",
        b": a\r\n",
        b"Host\r\n",
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_those_who_judge(scan: Any, block: bytes) -> None:
    assert scan(LINE + block + b"\r\n", len(LINE)) is None


def test_it_never_reads_beyond_the_end(scan: Any) -> None:
    whole = LINE + b"Host: example.com\r\nContent-Length: 5\r\n\r\n"
    for end in range(len(LINE), len(whole)):
        assert scan(whole[:end], len(LINE)) is None


def test_what_makes_no_sense_is_an_error_and_not_a_crash(scan: Any) -> None:
    for arguments in ((), (b"",), ("text", 0), (bytearray(b"x"), 0), (b"x", "0")):
        with pytest.raises(TypeError):
            scan(*arguments)
    for start in (-2, -1, 2):
        with pytest.raises(ValueError, match="within"):
            scan(b"x", start)


def test_responses_are_read_alike_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nOdd Name: x\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ]

    def seen() -> list[dict[str, object]]:
        parsed = [head.parse_response(raw) for raw in heads]
        return [{name: getattr(each, name) for name in head.ResponseHead.__slots__} for each in parsed]

    first = seen()
    monkeypatch.setattr(head, "IS_COMPILED", False)
    assert seen() == first
