"""The little HTTP that `proxyctl` speaks: whatever way the bytes come; and what is cut off is never taken for whole."""

from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.cli.http import Answer, CutOffError, ask

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world"
CLOSED = b"HTTP/1.0 200 OK\r\n\r\nhello world"


def answer(content: bytes, size: int = 65536) -> tuple[int, bytes]:
    """What is understood of an answer that arrives in parts of `size` bytes."""
    mine, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            for start in range(0, len(content), size):
                theirs.sendall(content[start : start + size])

    with mine:
        thread = threading.Thread(target=send)
        thread.start()
        try:
            with Answer(mine) as received:
                return received.status, received.read()
        finally:
            thread.join()


@given(st.sampled_from([CHUNKED, SIZED, CLOSED]), st.integers(1, 60))
def test_the_content_is_whole_however_it_comes(content: bytes, size: int) -> None:
    assert answer(content, size) == (200, b"hello world")


@given(st.sampled_from([CHUNKED, SIZED]), st.data())
def test_a_part_is_never_taken_for_the_whole(content: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(CutOffError):
        answer(content[:cut])


@given(st.binary(max_size=200))
@example(b"HTTP/1. 0\n\n")
@example(b"HTTP/1.1 20\n\n")
def test_what_is_not_http_is_an_error_and_nothing_worse(content: bytes) -> None:
    with pytest.raises(CutOffError):
        answer(content)


def test_headers_without_end_are_given_up() -> None:
    with pytest.raises(CutOffError):
        answer(b"HTTP/1.1 200 OK\r\n" + b"".join(b"x%d: y\r\n" % number for number in range(1000)))


def test_a_request_says_all_it_has_to() -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        theirs.sendall(CLOSED)
        with ask(mine, "POST", "/v1/stop", b"{}") as received:
            assert received.status == 200
        sent = theirs.recv(65536)
    assert sent.startswith(b"POST /v1/stop HTTP/1.1\r\n")
    assert b"\r\nHost: localhost\r\n" in sent
    assert b"\r\nContent-Type: application/json\r\n" in sent
    assert sent.endswith(b"\r\nContent-Length: 2\r\n\r\n{}")
