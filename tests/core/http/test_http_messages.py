from __future__ import annotations

import pytest

from proxy.core.http.head import LIMIT, HeadError
from proxy.core.http.messages import Requests, Responses


def test_requests_behind_more_empty_lines_than_a_head_may_have_are_not_lost() -> None:
    requests = Requests()
    requests.take(memoryview(b"GET / HTTP/1.1\r\n\r\n"))
    requests.next()
    data = b"\r\n" * 60_000 + b"GET /2 HTTP/1.1\r\n\r\n"
    assert requests.take(memoryview(data)) == len(data)
    assert requests.head is not None
    assert requests.begun == b""


def test_what_a_slow_client_makes_us_keep_is_bounded() -> None:
    for data in (b"\r\n", b" ", b"a", b"GET /", b"GET / HTTP/1.1\r\nA: b"):
        requests = Requests()
        requests.take(memoryview(data))
        try:
            for _ in range(200):
                requests.take(memoryview(data[-2:] * 1000))
                assert len(requests.begun) <= LIMIT
        except HeadError:
            pass


def test_a_backend_that_ends_lines_with_bare_line_feeds_is_told_at_once_and_not_waited_for() -> None:
    responses = Responses()
    responses.expect("GET")
    with pytest.raises(HeadError):
        responses.take(memoryview(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"))
