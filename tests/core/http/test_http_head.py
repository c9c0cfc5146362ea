from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.http import head as heads
from proxy.core.http.head import CHUNKED, UNTIL_CLOSE, HeadError, parse_request, parse_response
from tests.core.http.conversations import requests, responses, smuggling


def request(*lines: str) -> heads.RequestHead:
    return parse_request("\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode("latin-1"))


def test_a_client_that_wants_its_connection_closed_or_kept_is_understood() -> None:
    assert request().keep_alive
    assert not request("Connection: TE, Close").keep_alive
    assert not request("Connection: x", "Connection: close").keep_alive
    assert not parse_request(b"GET / HTTP/1.0\r\n\r\n").keep_alive
    assert parse_request(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive


def test_a_backend_of_http_1_0_that_sends_chunks_is_not_trusted_with_another_request() -> None:
    raw = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert not parse_response(raw).keep_alive


def test_the_length_of_a_body_is_what_the_fields_say() -> None:
    assert request("Content-Length: 12").length == 12
    assert request("transfer-encoding: Chunked").length == CHUNKED
    assert request().length == 0
    assert parse_response(b"HTTP/1.1 200 OK\r\n\r\n").length == UNTIL_CLOSE


def test_an_upgrade_needs_both_fields() -> None:
    assert request("Connection: keep-alive, Upgrade", "Upgrade: websocket").upgrade
    assert not request("Upgrade: websocket").upgrade
    assert not request("Connection: upgrade").upgrade


@pytest.mark.parametrize("name", ["X-Forwarded-For", "x_forwarded_for", "Forwarded", "X-Real-IP", "X_Real_Ip"])
def test_no_spelling_hides_a_claim_of_who_the_client_is(name: str) -> None:
    assert request(f"{name}: 192.0.2.1").has_claims


def test_what_a_head_says_does_not_depend_on_the_heads_before_it() -> None:
    """A parser that is used again must not remember: another client's head would be refused."""
    good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    conversations = [*requests.CONVERSATIONS, *responses.CONVERSATIONS, *smuggling.CONVERSATIONS]
    for conversation in conversations:
        for side in (conversation.client, conversation.backend):
            blocks = [message.head for message in side.messages] + [side.rest.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"]
            for raw in blocks:
                for parse in (heads._parse_request, heads._parse_response):
                    outcomes = []
                    for _ in range(2):
                        try:
                            outcomes.append(parse(raw).length)
                        except HeadError as error:
                            outcomes.append(str(error))
                        heads._parse_request(good)
                    assert outcomes[0] == outcomes[1], raw


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"GET / HTTP/1.1\r\nA: "]),
)
def test_no_bytes_raise_anything_but_a_head_error(data: bytes, before: bytes) -> None:
    for parse in (parse_request, parse_response):
        try:
            parse(before + data + b"\r\n\r\n")
        except HeadError as error:
            assert error.status == 400  # noqa: PT017


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length:7\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length:7\r\n",
        b"Content-Length: 5\r\n 7\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nX: a\nContent-Length: 7\r\n",
        b"Content-Length: 5\r\nX: a\rContent-Length: 7\r\n",
        b"Content-Length : 7\r\nContent-Length: 5\r\n",
    ],
)
def test_a_response_in_which_somebody_might_see_another_length_is_never_read_at_a_glance(fields: bytes) -> None:
    with pytest.raises(HeadError):
        parse_response(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")


@pytest.mark.parametrize("connection", [b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n"])
def test_a_response_that_is_read_at_a_glance_says_the_same_as_one_that_is_read_with_care(connection: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\nServer: x\r\n" + connection + b"Content-Length: 5\r\nETag: y\r\n\r\n"
    glanced, careful = parse_response(raw), parse_response(raw.replace(b"ETag: y", b"TE: transfer-encoding"))
    for name in ("status", "length", "keep_alive", "has_connection", "is_usual", "is_interim"):
        assert getattr(glanced, name) == getattr(careful, name), name
