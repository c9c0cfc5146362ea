"""What a client is told by the proxy itself, and that it gets to read it."""

from __future__ import annotations

import json
import socket
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from proxy import wire
from tests.relay.harness import (
    CHUNKED,
    CLOSE,
    GET,
    OK,
    POST,
    Answered,
    HttpService,
    answer,
    ask,
    exchange,
    fill,
    is_quiet,
    read,
    read_response,
    read_to_end,
    request,
    reset,
    response,
    was_reset,
)

KIB = 1 << 10
NO_BACKEND: dict[str, Any] = {"connect_timeout": 0.02}

INVALID = {
    "a bare LF": b"GET / HTTP/1.1\nHost: test\n\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : test\r\n\r\n",
    "a folded field": b"GET / HTTP/1.1\r\nHost: test\r\nX: a\r\n b\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a length and chunks": request("POST", "/", "Content-Length: 5", CHUNKED) + b"0\r\n\r\n",
    "a coding that is not chunked": b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a size that is none": request("POST", "/", CHUNKED) + b"0x5\r\nhello\r\n0\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a NUL": b"GET / HTTP/1.1\r\nHost: test\r\nX: a\0b\r\n\r\n",
    "a version that is none": b"GET / HTTP/1.9\r\nHost: test\r\n\r\n",
    "HTTP/0.9": b"GET /\r\nHost: test\r\n\r\n",
    "a request that some take for HTTP": b"GET / RTSP/1.1\r\nHost: test\r\n\r\n",
    "a method without end": b"A" * 100 + b" / HTTP/1.1\r\nHost: test\r\n\r\n",
}


def told(client: socket.socket, status: int) -> Answered:
    """Read an answer of the proxy's own that ends the connection."""
    found = read_response(client)
    assert (found.status, found.fields.get("connection")) == (status, "close")
    assert read_to_end(client) == b""
    return found


# 400


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
def test_a_request_that_could_be_read_in_two_ways_never_reaches_a_backend(web: HttpService, text: bytes) -> None:
    web.route()
    client = web.client()
    client.sendall(text)
    assert b"400 Bad Request" in told(client, 400).body
    kept, server = web.pair()
    kept.sendall(text)
    told(kept, 400)
    assert read_to_end(server) == b"", "the next one that this backend accepted came from somebody else"
    assert web.control.counts("web").answered == {"400": 2}


def test_nothing_behind_an_invalid_request_is_taken_for_a_request(web: HttpService) -> None:
    web.route()
    client = web.client()
    client.sendall(INVALID["two lengths"] + GET)
    told(client, 400)
    assert web.is_silent(web.backend.sock)


def test_requests_before_an_invalid_one_are_answered_first(web: HttpService) -> None:
    web.route()
    client = web.client()
    client.sendall(GET + POST + INVALID["two hosts"] + GET)
    server = web.keep(web.backend.accept())
    for text in (GET, POST):
        assert read(server, len(text)) == text
        answer(client, server)
    told(client, 400)
    assert read_to_end(server) == b""


def test_a_client_that_is_told_that_nothing_moves_is_closed_when_nothing_moves_again(web: HttpService) -> None:
    web.route()
    client, server = web.asked()
    web.route(idle_timeout=0.1)
    assert read_response(client).status == 504
    assert was_reset(server)
    assert read_to_end(client) == b""


def test_an_upload_that_turns_out_invalid_is_ended(web: HttpService) -> None:
    web.route()
    client, server = web.asked(request("POST", "/", CHUNKED) + b"3\r\nabc\r\n")
    client.sendall(b"nonsense\r\n")
    told(client, 400)
    assert was_reset(server), "so that the backend does not take it for whole"
    assert web.control.counts("web").generations[1].requests == {"400": 1}


def test_an_upload_that_turns_out_invalid_behind_a_begun_response_is_reset(web: HttpService) -> None:
    web.route()
    client, server = web.asked(request("POST", "/", CHUNKED) + b"3\r\nabc\r\n")
    answer(client, server, response(200, "Content-Length: 10") + b"abc")
    client.sendall(b"nonsense\r\n")
    assert was_reset(client)
    assert was_reset(server)


# 408


def test_a_head_that_does_not_arrive_in_time_is_given_up(web: HttpService) -> None:
    web.route(http=wire.Http(0.05, "off"))
    client = web.client()
    client.sendall(GET[:20])
    told(client, 408)
    kept, server = web.pair()
    kept.sendall(GET[:20])
    told(kept, 408)
    assert read_to_end(server) == b""
    assert web.control.counts("web").answered == {"408": 2}
    assert web.control.counts("web").generations[1].requests == {"200": 1}


def test_bytes_that_come_one_by_one_do_not_win_time(web: HttpService) -> None:
    web.route(http=wire.Http(0.3, "off"))
    client = web.client()
    client.settimeout(0.01)
    data, text = b"", iter(request("GET", "/" + "x" * 60_000))
    while not data:
        client.sendall(bytes([next(text)]))
        try:
            data = client.recv(1)
        except TimeoutError:
            continue
    client.settimeout(20)
    assert b"408 Request Timeout" in data + read_to_end(client)


def test_a_connection_without_a_request_is_not_a_slow_one(web: HttpService) -> None:
    web.route(http=wire.Http(0.1, "off"))
    fresh, (client, server) = web.client(), web.pair()
    assert is_quiet(client)
    exchange(client, server)
    fresh.sendall(GET)
    other = web.keep(web.backend.accept())
    assert read(other, len(GET)) == GET
    assert is_quiet(fresh), "nor is one whose backend takes its time"
    answer(fresh, other)


def test_an_empty_line_in_two_pieces_is_not_a_slow_head(web: HttpService) -> None:
    web.route(http=wire.Http(0.1, "off"))
    for _ in range(2):
        client, server = web.pair()
        for piece in (b"\r", b"\n"):
            client.sendall(piece)
            web.settle()
        if not _:
            ask(client, server)
        assert is_quiet(client)
        if not _:
            answer(client, server)
        exchange(client, server)


def test_a_slow_body_is_not_a_slow_head(web: HttpService) -> None:
    web.route(http=wire.Http(0.25, "off"))
    head = request("POST", "/", "Content-Length: 4")
    client = web.client()
    client.sendall(head[:20])
    client.sendall(head[20:])
    server = web.keep(web.backend.accept())
    assert read(server, len(head)) == head
    assert is_quiet(client)
    exchange(client, server, b"body")


# 431


def test_a_head_of_more_than_64_kib_is_refused(web: HttpService) -> None:
    web.route()
    client = web.client()
    client.sendall(request("GET", "/", "Cookie: " + "x" * 64 * KIB))
    told(client, 431)
    kept, server = web.pair()
    kept.sendall(GET[:-2] + b"Cookie: ")
    kept.sendall(b"x" * 100 * KIB)
    told(kept, 431)
    assert read_to_end(server) == b""
    assert web.control.counts("web").answered == {"431": 2}


# 502


@pytest.mark.parametrize(
    "nonsense",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70 * KIB,
    ],
    ids=["another protocol", "bare LFs", "two lengths", "an upgrade that nobody wanted", "a head without an end"],
)
def test_a_response_that_is_not_valid_is_not_passed_on(web: HttpService, nonsense: bytes) -> None:
    web.route()
    client, server = web.asked()
    server.sendall(nonsense)
    found = read_response(client)
    assert found.status == 502
    assert b"OpenSSH" not in found.body
    assert was_reset(server)
    client.sendall(GET)
    server = web.keep(web.backend.accept())
    assert read(server, len(GET)) == GET
    answer(client, server)
    assert web.control.counts("web").generations[1].requests == {"502": 1, "200": 1}


def test_a_response_that_turns_out_invalid_is_not_taken_for_whole(web: HttpService) -> None:
    web.route()
    client, server = web.asked()
    answer(client, server, response(200, CHUNKED) + b"3\r\nabc\r\n")
    server.sendall(b"nonsense\r\n")
    assert was_reset(client)
    assert was_reset(server)


# 503


def test_a_client_learns_that_there_is_no_backend(web: HttpService) -> None:
    web.route_nowhere(1, **NO_BACKEND)
    client = web.client()
    for _ in range(2):
        client.sendall(GET)
        found = read_response(client)
        assert (found.status, found.fields["retry-after"]) == (503, "1")
        assert "connection" not in found.fields
    counts = web.control.counts("web")
    assert counts.answered == {"503": 2}
    assert counts.refused == {"no_backend": 2}
    web.route()
    client.sendall(GET)
    exchange_with_new(web, client)


def exchange_with_new(web: HttpService, client: socket.socket, text: bytes = GET) -> None:
    """Answer a request that comes on a new connection to the backend."""
    server = web.keep(web.backend.accept())
    assert read(server, len(text)) == text
    answer(client, server)


def test_a_client_learns_that_nobody_listens(web: HttpService) -> None:
    backend = web.listener()
    web.route(1, backend, **NO_BACKEND)
    backend.close()
    client = web.client()
    client.sendall(GET)
    assert read_response(client).status == 503


def test_a_client_learns_that_no_backend_answers_in_time(web: HttpService) -> None:
    backend, _knocker = web.full_listener()
    web.route(1, backend, **NO_BACKEND)
    client = web.client()
    client.sendall(GET)
    assert read_response(client).status == 503


def test_a_kept_connection_whose_backend_left_the_route_learns_that_there_is_none(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    web.route_nowhere(1, **NO_BACKEND)
    client.sendall(GET)
    assert read_response(client).status == 503
    assert read_to_end(server) == b""


def test_a_request_waits_for_a_backend_as_long_as_a_connection_would(web: HttpService) -> None:
    web.route_nowhere(1, connect_timeout=0.0)
    client = web.seeking()
    assert is_quiet(client)
    web.route()
    exchange_with_new(web, client)


def test_an_upload_that_finds_no_backend_is_told_so_and_closed(web: HttpService) -> None:
    """What is left of the body must not be taken for the next request."""
    web.route_nowhere(1, **NO_BACKEND)
    client = web.client()
    client.sendall(request("POST", "/", f"Content-Length: {len(GET)}"))
    found = read_response(client)
    assert (found.status, found.fields["connection"]) == (503, "close")
    client.sendall(GET)
    assert read_to_end(client) == b""
    assert web.control.counts("web").answered == {"503": 1}


def test_requests_sent_ahead_of_one_that_found_no_backend_are_answered(web: HttpService) -> None:
    web.route_nowhere(1, **NO_BACKEND)
    client = web.client()
    client.sendall(POST + GET + request("HEAD"))
    for method in ("POST", "GET", "HEAD"):
        assert read_response(client, method=method).status == 503
    assert web.control.counts("web").answered == {"503": 3}


# What they look like


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; charset=utf-8"),
        ("Accept: */*", "text/plain; charset=utf-8"),
        ("Accept: application/json", "application/json"),
        ("Accept: text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
    ],
)
def test_an_answer_is_of_a_kind_that_the_client_takes(web: HttpService, accept: str, kind: str) -> None:
    web.route_nowhere(1, **NO_BACKEND)
    client = web.client()
    client.sendall(request("GET", "/", *filter(None, [accept])))
    found = read_response(client)
    assert found.fields["content-type"] == kind
    assert found.fields["cache-control"] == "no-store"
    assert parsedate_to_datetime(found.fields["date"]).tzinfo is not None
    if "json" in kind:
        assert json.loads(found.body)["error"]["status"] == 503


def test_an_answer_to_head_has_no_body(web: HttpService) -> None:
    web.route_nowhere(1, **NO_BACKEND)
    client = web.client()
    for _ in range(2):
        client.sendall(request("HEAD"))
        found = read_response(client, method="HEAD")
        assert (found.status, found.fields["content-type"]) == (503, "text/plain; charset=utf-8")
        assert int(found.fields["content-length"]) > 0


@pytest.mark.parametrize(
    ("text", "keeps"),
    [
        (GET, True),
        (request("GET", "/", CLOSE), False),
        (request("GET", "/", version="1.0"), False),
        (request("POST", "/", body="whole"), True),
    ],
    ids=["an ordinary one", "one that closes", "HTTP/1.0", "one with a body"],
)
def test_an_answer_keeps_the_connection_where_the_client_does(web: HttpService, text: bytes, *, keeps: bool) -> None:
    web.route_nowhere(1, **NO_BACKEND)
    client = web.client()
    client.sendall(text)
    assert read_response(client).fields.get("connection") == (None if keeps else "close")
    if keeps:
        client.sendall(text)
        assert read_response(client).status == 503
    else:
        assert read_to_end(client) == b""


def test_a_client_of_http_1_0_that_asks_to_be_kept_is_told_what_comes(web: HttpService) -> None:
    web.route_nowhere(1, **NO_BACKEND)
    client = web.client()
    client.sendall(request("GET", "/", "Connection: keep-alive", version="1.0"))
    told(client, 503)


# That they arrive


def test_an_answer_arrives_although_the_client_is_still_sending(web: HttpService) -> None:
    """To close with bytes unread would reset the connection, and the answer might be lost on that."""
    web.route_nowhere(1, **NO_BACKEND)
    client = web.client()
    client.sendall(request("POST", "/", f"Content-Length: {64 << 20}"))
    fill(client, limit=1 << 20)
    found = read_response(client)
    assert (found.status, found.fields["connection"]) == (503, "close")
    assert read_to_end(client) == b""
    assert web.control.counts("web").answered == {"503": 1}


def test_an_answer_is_not_lost_on_an_upload_to_a_backend_that_left(web: HttpService) -> None:
    web.route()
    client, server = web.asked(request("POST", "/", f"Content-Length: {64 << 20}"))
    fill(client, limit=1 << 20)
    reset(server)
    assert read_response(client).status == 502


def test_the_answer_that_a_client_has_not_taken_is_pending_for_it(web: HttpService) -> None:
    """Behind a response that it is slow to take."""
    web.route()
    client, server, size = web.flushing()
    client.sendall(INVALID["two hosts"])
    read(client, size)
    told(client, 400)
    assert read_to_end(server) == b""
    assert web.control.counts("web").generations[1].requests == {"200": size // len(response(body=bytes(32_000)))}


def test_a_client_that_half_closed_is_told(web: HttpService) -> None:
    web.route(held=True, **NO_BACKEND)
    client = web.seeking()
    client.shutdown(socket.SHUT_WR)
    web.route_nowhere(1, **NO_BACKEND)
    assert read_response(client).status == 503
    assert read_to_end(client) == b""


def test_answers_are_not_taken_for_a_generations_bytes(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    ask(client, server, POST)
    server.close()
    assert read_response(client).status == 502
    counts = web.control.counts("web").generations[1]
    assert (counts.received_backend, counts.sent_client) == (len(OK), len(OK))
