from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.http import body
from proxy.core.http.head import CHUNKED, UNTIL_CLOSE, HeadError


def test_a_body_of_a_known_length_leaves_the_next_message_alone() -> None:
    content = body.of_length(5)
    assert content.take(memoryview(b"hel")) == 3
    assert not content.is_done
    assert content.take(memoryview(b"loGET / HTTP/1.1")) == 2
    assert content.is_done


def test_only_the_end_of_the_connection_ends_a_body_without_a_length() -> None:
    content = body.of_length(UNTIL_CLOSE)
    assert content.needs_close
    assert content.take(memoryview(b"0\r\n\r\n")) == 5
    assert not content.is_done
    assert not body.of_length(0).needs_close


def test_a_bare_line_feed_in_trailers_is_refused_before_it_is_passed_on() -> None:
    content = body.of_length(CHUNKED)
    assert content.take(memoryview(b"0\r\nX: x")) == 7
    with pytest.raises(HeadError):
        content.take(memoryview(b"\n\nGET /evil HTTP/1.1\r\n"))


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5), st.booleans(), st.lists(st.integers(1, 9), min_size=1))
def test_chunks_end_where_they_were_made_to_end(chunks: list[bytes], has_trailer: bool, sizes: list[int]) -> None:
    text = b"".join(b"%x;e\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    text += b"0\r\nX: x\r\n\r\n" if has_trailer else b"0\r\n\r\n"
    content, start, turn = body.Chunked(), 0, 0
    whole = text + b"GET / HTTP/1.1\r\n"
    while not content.is_done:
        size = sizes[turn % len(sizes)]
        start, turn = start + content.take(memoryview(whole[start : start + size])), turn + 1
        assert len(content._begun) < 70_000
    assert start == len(text)
