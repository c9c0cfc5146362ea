from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.http.head import HeadError, parse_request
from proxy.core.http.opening import Opening, judge

WORDS = st.sampled_from(
    [
        b"GET",
        b"PRI * HTTP/2.0\r\n",
        b"foo",
        b" ",
        b"\r",
        b"\n",
        b"\r\n",
        b"/",
        b"HTTP/1.1",
        b"HTTP/",
        b"RTSP/1.0",
        b"\x00",
        b"\x01",
        b"\x0c",
        b"\x1c",
        b"\x85",
        b"\xff",
        b"a" * 64,
        b"\t",
        b"{",
        b":",
        b"PROPFIND",
        b"a" * 32000,
    ]
)
OPENINGS = st.lists(WORDS | st.binary(max_size=3), max_size=8).map(b"".join)


@given(OPENINGS, st.data())
@example(b"foo /\x01 HTTP/1.1\r\n", None)
@example(b"\r\nPRI * HTTP/2.0\r\n", None)
def test_a_decision_on_some_bytes_is_never_changed_by_what_follows(data: bytes, draw: object) -> None:
    cuts = range(len(data)) if len(data) < 300 else [*range(0, len(data), len(data) // 40), len(data) - 1]
    decided = Opening.UNDECIDED
    seen = 0
    for size in [*cuts, len(data)]:
        found = judge(data[:size])
        assert decided in {Opening.UNDECIDED, found}, data[:size]
        if decided is Opening.UNDECIDED:
            assert judge(data[:size], seen) is found, "what was seen before makes a difference"
        decided, seen = found, size


@given(
    st.from_regex(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64} [\x21-\x7e\x80-\xff]{1,40} HTTP/1\.[01]\r\n", fullmatch=True),
    st.sampled_from([b"", b"\r\n", b"\r\n\r\n"]),
)
def test_nothing_that_is_taken_for_a_request_ever_passes_as_something_else(line: bytes, lead: bytes) -> None:
    try:
        parse_request(line + b"\r\n")
    except HeadError:
        return
    assert all(judge((lead + line)[:size]) is not Opening.OTHER for size in range(len(lead + line) + 1))


def test_a_binary_protocol_need_not_wait_for_a_line() -> None:
    for data in (b"\x16\x03\x01", b"\x00", b"0\x0c\x02", b"AMQP\x00", b"\x10\x16\x00\x04MQTT", b"*2\r\n", b"{"):
        assert judge(data + b"\r\n") is Opening.OTHER
