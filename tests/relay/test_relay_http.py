"""What an HTTP client and its backend see of each other through a worker: every byte, in order, request by request."""

from __future__ import annotations

import os
import select
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from proxy import wire
from proxy.relay.engine import BUFFER
from tests.relay.harness import (
    CHUNKED,
    CLOSE,
    GET,
    OK,
    POST,
    Listener,
    answer,
    ask,
    chunked,
    connect,
    eventually,
    exchange,
    fill,
    is_quiet,
    read,
    read_head,
    read_to_end,
    request,
    reset,
    response,
    was_reset,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.relay.harness import HttpService, WorkerProcess

MIB = 1 << 20
KINDS = ("ipv4", "ipv6", "unix")

BODIES = {
    "nothing": (b"", ()),
    "an empty body": (b"", ("Content-Length: 0",)),
    "a length": (b"x" * 1000, ("Content-Length: 1000",)),
    "chunks": (chunked(b"abc", b"d" * 1000, b"\r\n0\r\n\r\n"), (CHUNKED,)),
    "no chunk": (chunked(), (CHUNKED,)),
    "chunks with trailers": (chunked(b"abc", trailers="X-Sum: 1\r\nX-More: 2\r\n"), (CHUNKED,)),
    "chunks with extensions": (b'3;name="a;b"\r\nabc\r\n0;last\r\n\r\n', (CHUNKED,)),
}
FRAMED = pytest.mark.parametrize(("body", "fields"), BODIES.values(), ids=BODIES)
SIZED = pytest.mark.parametrize(("body", "fields"), list(BODIES.values())[1:], ids=list(BODIES)[1:])


def in_background(sock: socket.socket, data: bytes) -> threading.Thread:
    thread = threading.Thread(target=sock.sendall, args=(data,))
    thread.start()
    return thread


def bare(status: int, *fields: str, version: str = "1.1") -> bytes:
    """A response's head that says no length unless a field does."""
    return "\r\n".join((f"HTTP/{version} {status} Said", *fields, "", "")).encode()


def seen_when_closed(web: HttpService) -> wire.GenerationCounts:
    """The counts of the first generation, once it has no connection any more."""
    return web.control.counts_when("web", lambda counts: not counts.generations[1].active).generations[1]


# Requests and responses


@pytest.mark.parametrize("backend", KINDS)
@pytest.mark.parametrize("public", KINDS)
def test_every_kind_of_client_reaches_every_kind_of_backend(web: HttpService, public: str, backend: str) -> None:
    web.public = web.listener(public)
    web.backend = web.listener(backend)
    web.control.listen("web", web.public)
    web.route()
    client, server = web.pair()
    exchange(client, server, POST, response(201, body="made"))
    client.close()
    assert read_to_end(server) == b""


def test_many_requests_share_one_connection_to_the_backend(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    for number in range(50):
        exchange(client, server, request("GET", f"/{number % 3}"), response(body=f"{number % 2}"))
    assert web.control.counts("web").generations[1].connections == 1


@FRAMED
def test_a_request_arrives_with_its_body_however_that_is_framed(
    web: HttpService, body: bytes, fields: tuple[str, ...]
) -> None:
    web.route()
    client, server = web.pair()
    for _ in range(2):
        exchange(client, server, request("PUT", "/thing", *fields) + body)


@SIZED
def test_a_response_arrives_with_its_body_however_that_is_framed(
    web: HttpService, body: bytes, fields: tuple[str, ...]
) -> None:
    web.route()
    client, server = web.pair()
    for _ in range(2):
        exchange(client, server, GET, response(200, *fields) + body)


@FRAMED
def test_a_request_in_single_bytes_arrives(web: HttpService, body: bytes, fields: tuple[str, ...]) -> None:
    web.route()
    text = request("PUT", "/thing", *fields) + body[:60]
    client, server = web.pair()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = len(request("PUT", "/thing", *fields))
    for place in range(len(text)):
        client.sendall(text[place : place + 1])
        if place >= head:  # each byte of the body goes on at once
            assert read(server, 1) == text[place : place + 1]
        elif place == head - 1:
            assert read(server, head) == text[:head]
    if len(body) <= 60:
        answer(client, server)
        exchange(client, server)


@SIZED
def test_a_response_in_single_bytes_arrives(web: HttpService, body: bytes, fields: tuple[str, ...]) -> None:
    web.route()
    text = response(200, *fields) + body[:60]
    client, server = web.pair()
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = len(response(200, *fields))
    ask(client, server)
    for place in range(len(text)):
        server.sendall(text[place : place + 1])
        if place >= head:
            assert read(client, 1) == text[place : place + 1]
        elif place == head - 1:
            assert read(client, head) == text[:head]
    if len(body) <= 60:
        exchange(client, server)


def test_a_response_that_is_known_already_arrives_whichever_pieces_it_comes_in(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for place in range(1, len(OK)):
        exchange(client, server)
        ask(client, server)
        server.sendall(OK[:place])
        if place >= len(response()):
            assert read(client, place)[-1:] == OK[place - 1 : place]
            answer(client, server, OK[place:])
        else:
            server.sendall(OK[place:])
            assert read(client, len(OK)) == OK


def test_a_request_that_is_known_already_is_understood_in_whichever_pieces_it_comes(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for place in range(1, len(GET)):
        client.sendall(GET[:place])
        client.sendall(GET[place:])
        assert read(server, len(GET)) == GET
        answer(client, server)


def test_another_request_of_the_same_size_is_not_taken_for_the_last_one(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    for number in range(10, 20):
        exchange(client, server, request("GET", f"/{number}"), response(body=f"{number}"))
        exchange(client, server, request("HEAD", f"/{number - 1}")[:-2] + b"\r\n", response(200, "Content-Length: 5"))
    exchange(client, server, request("PUT", "/", "Content-Length: 2"), b"")
    exchange(client, server, b"ab")


def test_another_response_of_the_same_size_is_not_taken_for_the_last_one(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    first = response(200, body="x" * 100)
    other = response(200, CHUNKED) + chunked(b"!" * 82)
    assert len(other) == len(first)
    exchange(client, server, GET, first)
    exchange(client, server, GET, other)
    exchange(client, server, GET, response(404, body="x" * 100))
    counts = web.control.counts("web").generations[1]
    assert counts.requests == {"200": 3, "404": 1}


def test_empty_lines_before_a_request_do_no_harm(web: HttpService) -> None:
    """Old clients send one behind a body (RFC 9112, 2.2)."""
    web.route()
    client, server = web.pair()
    client.sendall(b"\r\n\r\n" + GET)
    assert read(server, len(GET)) == GET
    answer(client, server)
    exchange(client, server)


def test_a_head_of_nearly_64_kib_arrives(web: HttpService) -> None:
    web.route()
    fields = ("Cookie: " + "a" * 32_000, "X-More: " + "b" * 33_000)
    client, server = web.pair()
    exchange(client, server, request("GET", "/", *fields), response(200, *fields, body="fine"))


def test_two_clients_do_not_share_a_backend_connection(web: HttpService) -> None:
    web.route()
    first, second = web.pair(), web.pair()
    ask(*first, request("GET", "/first"))
    ask(*second, request("GET", "/second"))
    answer(*second, response(body="second"))
    answer(*first, response(body="first"))


def test_what_one_client_says_does_not_count_for_another(web: HttpService) -> None:
    """Neither what it says of its connection, nor what is wrong with it."""
    web.route()
    odd = [
        request("GET", "/", *fields)
        for fields in (
            (CLOSE,),
            ("Proxy-Connection: close",),
            ("Connection: Upgrade", "Upgrade: x"),
            ("Connection: nonsense", "Keep-Alive: x"),
            (CHUNKED,),
            ("Content-Length: 1000000",),
        )
    ]
    odd += [
        request("CONNECT", "a:1"),
        request("GET", "/", version="1.0"),
        GET[:-2] + b"X\r\n\r\n",
        GET[:-2] + b"\n\r\n",
    ]
    for number, text in enumerate(odd):
        web.client().sendall(text)
        web.settle()
        client = web.client()
        client.sendall(request("GET", f"/{number}"))
        for _ in range(2):
            server = web.keep(web.backend.accept())
            if read_head(server) == request("GET", f"/{number}"):
                break
        answer(client, server, response(200, f"X-Unseen: {number}", body="fine"))


def test_a_client_that_says_nothing_costs_the_backend_nothing(web: HttpService) -> None:
    web.route()
    client = web.client()
    client.sendall(GET[:20])
    assert web.is_silent(web.backend.sock)
    assert web.control.counts("web").generations[1].active == 0
    client.close()


# Pipelining


def test_requests_sent_ahead_are_answered_one_by_one_and_in_order(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    texts = [request("GET", f"/{number}") for number in range(5)]
    texts[2] = request("PUT", "/2", body="two")
    texts[3] = request("PUT", "/3", CHUNKED) + chunked(b"thr", b"ee")
    client.sendall(b"".join(texts))
    for number, text in enumerate(texts):
        assert read(server, len(text)) == text
        assert web.is_silent(server), "the next one waits for its turn"
        answer(client, server, response(body=str(number)))
    exchange(client, server)


def test_requests_sent_ahead_of_the_first_response_are_kept(web: HttpService) -> None:
    web.route()
    client, server = web.asked()
    for number in range(3):
        client.sendall(request("GET", f"/{number}"))
    for number in range(3):
        answer(client, server, response(body=str(number)))
        text = request("GET", f"/{number}")
        assert read(server, len(text)) == text
    answer(client, server)


def test_more_is_sent_ahead_than_fits_into_a_buffer(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    text = request("PUT", "/", body="x" * 3000)
    sender = in_background(client, text * 200)
    for _ in range(200):
        assert read(server, len(text)) == text
        answer(client, server)
    sender.join()
    exchange(client, server)


def test_a_client_that_only_sends_ahead_is_stopped(web: HttpService, worker: WorkerProcess) -> None:
    web.route()
    client, server = web.asked()
    before = worker.rss()
    assert fill(client, limit=64 * MIB) < 64 * MIB
    assert worker.rss() - before < 4 * MIB
    assert web.is_silent(server)


def test_a_body_whose_end_comes_with_the_next_request_ends_where_it_should(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    text = request("PUT", "/", "Content-Length: 10")
    ask(client, server, text + b"01234")
    client.sendall(b"56789" + GET)
    assert read(server, 5) == b"56789"
    assert web.is_silent(server)
    answer(client, server)
    assert read(server, len(GET)) == GET
    answer(client, server)


# Responses without a body of their own


def test_a_response_to_head_has_no_body_whatever_it_says(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    for fields in (("Content-Length: 1000",), (CHUNKED,), ("Content-Type: text/plain",)):
        exchange(client, server, request("HEAD"), bare(200, *fields))
        exchange(client, server)


@pytest.mark.parametrize("status", [204, 304])
def test_these_statuses_have_no_body_whatever_they_say(web: HttpService, status: int) -> None:
    web.route()
    client, server = web.pair()
    for fields in ((), ("Content-Length: 1000",), (CHUNKED,)):
        exchange(client, server, GET, response(status, *fields))
        exchange(client, server)


def test_a_body_that_must_not_be_there_is_not_taken_for_the_next_response(web: HttpService) -> None:
    web.route()
    client = web.client()
    for text, status in ((GET, 304), (GET, 204), (request("HEAD"), 200)):
        client.sendall(text)
        server = web.keep(web.backend.accept())
        assert read(server, len(text)) == text
        head = response(status, "Content-Length: 5")
        server.sendall(head + b"extra")
        assert read(client, len(head)) == head
        read_to_end_or_reset(server)
    assert web.is_silent(client)


# Interim responses


def test_a_client_that_waits_for_100_continue_gets_it_before_it_sends(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    head = request("POST", "/", "Expect: 100-continue", "Content-Length: 5")
    exchange(client, server, head, response(100))
    exchange(client, server, b"12345", OK)
    exchange(client, server)
    assert web.control.counts("web").generations[1].requests == {"200": 3}


def test_a_client_that_waits_for_100_continue_may_get_the_answer_instead(web: HttpService) -> None:
    web.route()
    client, server = web.asked(request("POST", "/", "Expect: 100-continue", "Content-Length: 5"))
    answer(client, server, response(417, CLOSE, body="no"))
    server.close()
    assert read_to_end(client) == b""


def test_hints_arrive_before_the_response(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    hint = response(103, "Link: </style.css>; rel=preload")
    ask(client, server)
    answer(client, server, hint)
    answer(client, server, hint + hint)
    answer(client, server, hint + response(102) + OK)
    exchange(client, server, GET, response(103, "Content-Length: 0") + OK)
    exchange(client, server)


def test_a_thousand_hints_at_once_arrive(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    hints = response(100) * 2000
    exchange(client, server, GET, hints + OK)
    exchange(client, server)


def test_hints_do_not_pile_up_before_a_client_that_does_not_read(web: HttpService, worker: WorkerProcess) -> None:
    web.route()
    client, server = web.asked(receive_buffer=4096)
    hints = response(103, "Link: " + "x" * 1000) * 60
    before = worker.rss()
    server.setblocking(False)
    total = 0
    while total < 64 * MIB:
        try:
            total += server.send(hints)
        except BlockingIOError:
            if is_quiet(server, events=select.POLLOUT):
                break
    assert total < 64 * MIB
    counts = web.control.counts("web").generations[1]
    assert counts.received_backend - counts.sent_client <= 2 * BUFFER
    assert worker.rss() - before < 4 * MIB
    client.close()


# Early responses


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_after_an_early_response_the_rest_of_the_body_is_passed_on_and_the_connection_kept(
    web: HttpService, framing: str
) -> None:
    web.route()
    client, server = web.pair()
    body = b"x" * 100 if framing == "length" else chunked(b"x" * 100)
    ask(client, server, request("POST", "/", "Content-Length: 100" if framing == "length" else CHUNKED) + body[:50])
    answer(client, server)
    ask(client, server, body[50:])
    exchange(client, server)
    assert web.control.counts("web").generations[1].connections == 1


@pytest.mark.parametrize("answered", ["before", "meanwhile"])
@pytest.mark.parametrize("then", ["goes on", "closes", "moves"])
def test_an_upload_that_was_answered_before_it_was_taken_arrives_whole(
    web: HttpService, answered: str, then: str
) -> None:
    """What the client has sent, and was told about, waits in the worker when the response is complete."""
    web.backend = web.listener("unix")  # the kernel keeps a fixed 208 KiB for it
    web.route(1)
    fields = ("Content-Length: 250000", *([CLOSE] if then == "closes" else []))
    client, server = web.asked(request("POST", "/", *fields))
    body = os.urandom(250_000)
    if answered == "before":
        answer(client, server)
    web.worker.freeze()
    client.sendall(body)
    web.worker.thaw()
    web.control.counts_when("web", lambda counts: counts.generations[1].received_client > len(body))
    if answered == "meanwhile":
        answer(client, server)
    if then == "moves":
        web.route(2, new := web.listener())
    assert read(server, len(body)) == body
    if then == "goes on":
        exchange(client, server)
        return
    assert read_to_end(server) == b""
    if then == "closes":
        assert read_to_end(client) == b""
    else:
        client.sendall(GET)
        assert read(web.keep(new.accept()), len(GET)) == GET


def test_a_backend_that_refuses_an_upload_and_closes_is_heard(web: HttpService) -> None:
    """It resets the connection, as it has not read everything; the client goes on sending for a while."""
    web.route()
    client, server = web.asked(request("POST", "/", f"Content-Length: {256 * MIB}"))
    fill(client, limit=MIB)
    refusal = response(413, CLOSE, body="too much")
    server.sendall(refusal)
    server.close()
    assert read(client, len(refusal)) == refusal
    assert read_to_end(client) == b""
    counts = web.control.counts_when("web", lambda counts: not counts.generations[1].active).generations[1]
    assert counts.requests == {"413": 1}


def test_a_backend_that_answers_an_upload_and_leaves_ends_the_upload(web: HttpService) -> None:
    """Nothing in the response says that it closes; there is nobody to take the rest, so the client learns it."""
    web.route()
    client, server = web.asked(request("POST", "/", "Content-Length: 100") + b"x" * 50)
    answer(client, server, response(400, body="no"))
    server.close()
    assert read_to_end(client) == b""


# Connections that end with the response


def test_a_body_until_the_end_of_the_connection_arrives(web: HttpService) -> None:
    web.route()
    for fields, version in (((CLOSE,), "1.1"), ((), "1.1"), ((), "1.0"), (("Transfer-Encoding: gzip",), "1.1")):
        client, server = web.asked()
        answer(client, server, bare(200, *fields, version=version) + b"some")
        answer(client, server, b" more")
        server.close()
        assert read_to_end(client) == b""


def test_a_body_until_the_end_of_the_connection_that_is_reset_is_not_taken_for_whole(web: HttpService) -> None:
    web.route()
    client, server = web.asked()
    answer(client, server, bare(200) + b"some")
    reset(server)
    assert was_reset(client)


@pytest.mark.parametrize("body", ["length", "chunks"])
@pytest.mark.parametrize("end", ["closes", "resets"])
def test_a_response_that_is_cut_short_is_not_taken_for_whole(web: HttpService, body: str, end: str) -> None:
    web.route()
    client, server = web.asked()
    head = response(200, "Content-Length: 100" if body == "length" else CHUNKED)
    answer(client, server, head + b"64\r\npart")
    if end == "closes":
        server.close()
    else:
        reset(server)
    assert was_reset(client)
    assert seen_when_closed(web).requests == {}


def test_a_backend_that_closes_after_its_response_closes_the_client_when_it_said_so(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    exchange(client, server, GET, response(200, CLOSE, body="bye"))
    assert read_to_end(client) == b""
    assert read_to_end(server) == b""


def test_a_backend_that_closes_an_idle_connection_does_not_close_the_clients(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    for _ in range(5):
        server.close()
        web.control.counts_when("web", lambda counts: not counts.generations[1].active)
        client.sendall(GET)
        server = web.keep(web.backend.accept())
        assert read(server, len(GET)) == GET
        answer(client, server)


def test_a_backend_that_resets_an_idle_connection_does_not_close_the_clients(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    reset(server)
    web.control.counts_when("web", lambda counts: not counts.generations[1].active)
    client.sendall(POST)
    server = web.keep(web.backend.accept())
    assert read(server, len(POST)) == POST
    answer(client, server)


def test_a_client_that_closes_after_its_request_gets_its_answer_and_the_end(web: HttpService) -> None:
    web.route()
    client, server = web.asked(request("GET", "/", CLOSE))
    answer(client, server)
    assert read_to_end(client) == b""
    assert read_to_end(server) == b""


def test_a_client_of_http_1_0_is_closed_unless_it_asks_to_be_kept(web: HttpService) -> None:
    web.route()
    client, server = web.asked(request("GET", "/", "Connection: keep-alive", version="1.0"))
    answer(client, server, response(200, "Connection: keep-alive", body="kept", version="1.0"))
    exchange(client, server, request("GET", "/", version="1.0"), response(body="the last"))
    assert read_to_end(client) == b""
    assert read_to_end(server) == b""


def test_a_backend_of_http_1_0_is_not_asked_again(web: HttpService) -> None:
    web.route()
    client, server = web.asked()
    answer(client, server, response(body="old", version="1.0"))
    assert read_to_end(client) == b""
    assert read_to_end(server) == b""


# Half-closed


def test_a_client_that_has_said_all_still_gets_its_answer(web: HttpService) -> None:
    web.route()
    client, server = web.asked()
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(server) == b""
    answer(client, server)
    assert read_to_end(client) == b""


def test_a_client_that_has_said_all_at_once_still_gets_its_answers(web: HttpService, worker: WorkerProcess) -> None:
    web.route()
    client = web.client()
    worker.freeze()
    client.sendall(GET * 3)
    client.shutdown(socket.SHUT_WR)
    worker.thaw()
    server = web.keep(web.backend.accept())
    for _ in range(3):
        assert read(server, len(GET)) == GET
        answer(client, server)
    assert read_to_end(client) == b""
    assert read_to_end(server) == b""


def test_a_client_that_has_said_all_while_it_was_held_gets_its_answer(web: HttpService) -> None:
    web.route(held=True)
    client = web.seeking()
    client.shutdown(socket.SHUT_WR)
    assert web.is_silent(client)
    web.route()
    server = web.keep(web.backend.accept())
    assert read(server, len(GET)) == GET
    answer(client, server)
    assert read_to_end(client) == b""


def test_a_client_that_ends_in_the_middle_of_a_body_is_seen_by_the_backend(web: HttpService) -> None:
    web.route()
    client, server = web.asked(request("POST", "/", "Content-Length: 100") + b"half")
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(server) == b""
    answer(client, server, response(400, body="half a body"))
    assert read_to_end(client) == b""
    assert read_to_end(server) == b""


def test_a_client_that_ends_in_the_middle_of_a_head_is_let_go(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    client.sendall(GET[:10])
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(client) == b""
    assert read_to_end(server) == b""


def test_a_backend_that_has_said_all_has_its_response_passed_on(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    ask(client, server)
    server.sendall(OK)
    server.shutdown(socket.SHUT_WR)
    assert read(client, len(OK)) == OK
    assert read_to_end(server) == b""
    client.sendall(GET)
    server = web.keep(web.backend.accept())
    assert read(server, len(GET)) == GET
    answer(client, server)


def test_a_backend_that_speaks_without_being_asked_is_not_heard(web: HttpService) -> None:
    """What it says must never be taken for the response to the next request."""
    web.route()
    client, server = web.pair()
    server.sendall(response(body="poison"))
    assert read_to_end(server) == b""
    assert web.is_silent(client)
    client.sendall(GET)
    server = web.keep(web.backend.accept())
    assert read(server, len(GET)) == GET
    answer(client, server)


def test_a_backend_that_says_more_than_its_response_is_not_asked_again(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    ask(client, server)
    server.sendall(OK + response(body="poison"))
    assert read(client, len(OK)) == OK
    assert read_to_end_or_reset(server) == b""
    client.sendall(GET)
    server = web.keep(web.backend.accept())
    assert read(server, len(GET)) == GET
    answer(client, server)


def read_to_end_or_reset(sock: socket.socket) -> bytes:
    try:
        return read_to_end(sock)
    except ConnectionResetError:
        return b""


# Slow readers, and much to read


def test_a_client_that_does_not_read_slows_its_backend_and_memory_stays_bounded(
    web: HttpService, worker: WorkerProcess
) -> None:
    web.route()
    client, server = web.asked(receive_buffer=4096)
    before = worker.rss()
    answer(client, server, response(200, f"Content-Length: {256 * MIB}"))
    assert fill(server) < 64 * MIB
    counts = web.control.counts("web").generations[1]
    assert counts.received_backend - counts.sent_client <= BUFFER
    assert worker.rss() - before < 4 * MIB
    assert worker.cpu_share(0.3) < 0.1


def test_a_backend_that_does_not_read_slows_its_client_and_memory_stays_bounded(
    web: HttpService, worker: WorkerProcess
) -> None:
    web.route()
    client, _server = web.asked(request("POST", "/", f"Content-Length: {256 * MIB}"))
    before = worker.rss()
    assert fill(client) < 64 * MIB
    counts = web.control.counts("web").generations[1]
    assert counts.received_client - counts.sent_backend <= BUFFER
    assert worker.rss() - before < 4 * MIB


def test_a_slow_client_gets_every_byte_in_the_end(web: HttpService) -> None:
    web.route()
    client, server = web.asked(receive_buffer=4096)
    answer(client, server, response(200, CHUNKED) + b"%x\r\n" % (8 * MIB))
    sent = fill(server, limit=7 * MIB)
    assert read(client, sent) == bytes(sent)
    sender = in_background(server, bytes(8 * MIB - sent) + b"\r\n0\r\n\r\n")
    assert read(client, 8 * MIB - sent + 7)[-7:] == b"\r\n0\r\n\r\n"
    sender.join()
    exchange(client, server)


def test_a_slow_backend_gets_every_byte_in_the_end(web: HttpService) -> None:
    web.route()
    client, server = web.asked(request("POST", "/", CHUNKED) + b"%x\r\n" % (8 * MIB))
    sent = fill(client, limit=7 * MIB)
    assert read(server, sent) == bytes(sent)
    sender = in_background(client, bytes(8 * MIB - sent) + b"\r\n0\r\n\r\n" + GET)
    assert read(server, 8 * MIB - sent + 7)[-7:] == b"\r\n0\r\n\r\n"
    sender.join()
    answer(client, server)
    assert read(server, len(GET)) == GET
    answer(client, server)


@pytest.mark.parametrize("kind", ["length", "chunks"])
def test_big_bodies_arrive_both_ways_at_once(web: HttpService, kind: str) -> None:
    """A backend that echoes: it answers while it is asked."""
    web.route()
    client, server = web.pair()
    data = os.urandom(4 * MIB)
    body = (
        data if kind == "length" else chunked(*(data[start : start + 77_777] for start in range(0, len(data), 77_777)))
    )
    field = f"Content-Length: {len(body)}" if kind == "length" else CHUNKED
    ask(client, server, request("POST", "/", field))
    answer(client, server, response(200, field))
    up, down = in_background(client, body), in_background(server, body)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(read(server, len(body))))
    reader.start()
    assert read(client, len(body)) == body
    for thread in (up, down, reader):
        thread.join()
    assert got == [body]
    exchange(client, server)


def test_one_way_is_not_stopped_by_the_other(web: HttpService) -> None:
    web.route()
    head = request("POST", "/", "Content-Length: 1000")
    client, server = web.asked(head, receive_buffer=4096)
    answer(client, server, response(200, f"Content-Length: {256 * MIB}"))
    fill(server)
    ask(client, server, b"x" * 1000)


def test_the_next_request_waits_until_the_client_has_taken_the_last_response(web: HttpService) -> None:
    web.route()
    client, server, size = web.flushing()
    client.sendall(POST)
    assert web.is_silent(server)
    read(client, size)
    assert read(server, len(POST)) == POST
    answer(client, server)


# Resets


def test_a_client_that_resets_resets_its_request(web: HttpService) -> None:
    web.route()
    beginnings = {
        "asked": (GET, b""),
        "uploading": (request("POST", "/", "Content-Length: 100") + b"part", b""),
        "downloading": (GET, response(200, "Content-Length: 100") + b"part"),
        "both": (request("POST", "/", "Content-Length: 100") + b"part", response(200, "Content-Length: 9") + b"part"),
    }
    for text, begun in beginnings.values():
        client, server = web.asked(text)
        answer(client, server, begun)
        reset(client)
        assert was_reset(server)
    counts = seen_when_closed(web)
    assert counts.in_flight == 0
    assert counts.requests == {}


def test_a_client_that_resets_between_requests_closes_its_backend_connection(web: HttpService) -> None:
    web.route()
    for beginning in (b"", GET[:10]):
        client, server = web.pair()
        client.sendall(beginning)
        reset(client)
        assert read_to_end(server) == b""


def test_a_client_that_resets_while_it_waits_is_forgotten(web: HttpService, worker: WorkerProcess) -> None:
    before = worker.descriptors()
    web.route(held=True)
    for text in (GET, request("POST", "/", "Content-Length: 100") + b"part", GET * 2):
        reset(web.seeking(text))
        web.control.counts_when("web", lambda counts: not counts.waiting)
    web.route()
    assert web.is_silent(web.backend.sock)
    eventually(lambda: worker.descriptors() <= before or None)


def test_a_client_that_resets_while_its_backend_is_being_connected_is_forgotten(web: HttpService) -> None:
    backend, _knocker = web.full_listener()
    web.route(1, backend)
    client = web.client()
    client.sendall(GET)
    web.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    reset(client)
    web.control.counts_when("web", lambda counts: not counts.generations[1].active)


def test_a_client_that_resets_with_a_response_unread_lets_go_of_its_backend(web: HttpService) -> None:
    web.route()
    client, server = web.asked(receive_buffer=4096)
    server.sendall(response(200, f"Content-Length: {256 * MIB}"))
    fill(server, limit=MIB)
    reset(client)
    assert was_reset(server)


def test_a_client_that_closes_with_a_response_unread_lets_go_of_its_backend(web: HttpService) -> None:
    web.route()
    client, server = web.asked()
    server.sendall(response(200, "Content-Length: 1000"))
    assert select.select([client], [], [], 20)[0]
    client.close()  # bytes are unread, so this is a reset
    assert was_reset(server)


def test_a_client_that_closes_an_idle_connection_closes_that_of_its_backend(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    client.close()
    assert read_to_end(server) == b""
    assert seen_when_closed(web).active == 0


# Timeouts


def test_a_kept_connection_on_which_nothing_moves_is_closed(web: HttpService) -> None:
    web.route(idle_timeout=0.5)
    for sock in web.pair():
        assert read_to_end(sock) == b""


def test_an_idle_timeout_that_is_set_later_counts_for_open_connections(web: HttpService) -> None:
    web.route()
    pair = web.pair()
    web.route(idle_timeout=0.2)
    for sock in pair:
        assert read_to_end(sock) == b""


def test_a_response_that_times_out_half_way_is_not_taken_for_whole(web: HttpService) -> None:
    web.route()
    client, server = web.asked()
    answer(client, server, response(200, CHUNKED) + b"5\r\npart")
    web.route(idle_timeout=0.2)
    assert was_reset(client)
    assert was_reset(server)


def test_a_request_that_is_held_does_not_time_out(web: HttpService) -> None:
    web.route(paused=True)
    client = web.seeking()
    web.route(paused=True, idle_timeout=0.1)
    assert is_quiet(client)
    web.route()
    server = web.keep(web.backend.accept())
    assert read(server, len(GET)) == GET
    answer(client, server)


# Who the client is


def test_the_backend_learns_who_the_client_is(web: HttpService) -> None:
    web.route(http=wire.Http())
    client, server = web.client(), None
    for _ in range(2):
        client.sendall(GET)
        server = server or web.keep(web.backend.accept())
        head = read_head(server).decode()
        assert head.startswith(GET[:-2].decode())
        assert "X-Forwarded-For: 127.0.0.1\r\n" in head
        assert "X-Forwarded-Proto: http\r\n" in head
        assert "X-Forwarded-Host: test\r\n" in head
        answer(client, server)


def test_what_the_client_claims_is_replaced_where_that_is_asked_for(web: HttpService) -> None:
    web.route(http=wire.Http(forwarded="replace"))
    client = web.client()
    client.sendall(request("GET", "/", "X-Forwarded-For: 10.0.0.1", "Forwarded: for=10.0.0.1", "X-Real-IP: 10.0.0.1"))
    head = read_head(web.keep(web.backend.accept()))
    assert b"10.0.0.1" not in head
    assert b"X-Forwarded-For: 127.0.0.1\r\n" in head


def test_each_request_gets_an_id_of_its_own(web: HttpService) -> None:
    web.route(http=wire.Http(forwarded="off", request_id=True))
    client = web.client()
    client.sendall(GET)
    server = web.keep(web.backend.accept())
    heads = [read_head(server)]
    answer(client, server)
    client.sendall(GET)
    heads.append(read_head(server))
    answer(client, server)
    assert heads[0] != heads[1]
    assert all(b"X-Request-Id: " in head for head in heads)
    exchange(client, server, request("GET", "/", "X-Request-Id: mine"))


def test_a_change_of_how_requests_are_forwarded_counts_for_open_connections(web: HttpService) -> None:
    web.route()
    client, server = web.pair()
    web.route(http=wire.Http())
    client.sendall(GET)
    assert b"X-Forwarded-For: 127.0.0.1\r\n" in read_head(server)
    answer(client, server)
    web.route()
    exchange(client, server)


# Counters


def test_counters_are_exact(web: HttpService) -> None:
    web.route()
    texts = [(GET, OK), (GET, OK), (POST, response(201, CHUNKED) + chunked(b"abc" * 100_000)), (GET, OK)]
    texts += [(request("PUT", "/", CHUNKED) + chunked(b"x" * 200_000), response(100) + response(204))]
    for _ in range(2):
        client, server = web.asked(*texts[0][:1])
        answer(client, server, texts[0][1])
        for asked, answered in texts[1:]:
            asking = in_background(client, asked)
            assert read(server, len(asked)) == asked
            answering = in_background(server, answered)
            assert read(client, len(answered)) == answered
            asking.join()
            answering.join()
        client.close()
    counts = seen_when_closed(web)
    up, down = (2 * sum(len(text[way]) for text in texts) for way in (0, 1))
    assert (counts.received_client, counts.sent_backend) == (up, up)
    assert (counts.received_backend, counts.sent_client) == (down, down)
    assert counts.requests == {"200": 6, "201": 2, "204": 2}
    assert sum(counts.request_duration.counts) == 10
    assert counts.request_duration.sum > 0
    assert (counts.connections, sum(counts.duration.counts), sum(counts.connect.counts)) == (2, 2, 2)
    assert counts.in_flight == 0


def test_what_is_added_for_the_backend_is_counted_as_sent_only(web: HttpService) -> None:
    web.route(http=wire.Http())
    client = web.client()
    client.sendall(GET)
    server = web.keep(web.backend.accept())
    head = read_head(server)
    answer(client, server)
    counts = web.control.counts("web").generations[1]
    assert (counts.received_client, counts.sent_backend) == (len(GET), len(head))


def test_what_was_received_and_not_sent_is_not_counted_as_sent(web: HttpService) -> None:
    web.route()
    client, server = web.asked(request("POST", "/", f"Content-Length: {256 * MIB}"), receive_buffer=4096)
    up = fill(client)
    answer(client, server, response(200, f"Content-Length: {256 * MIB}"))
    down = fill(server)
    counts = web.control.counts("web").generations[1]
    assert 0 < counts.received_client - counts.sent_backend <= BUFFER
    assert 0 < counts.received_backend - counts.sent_client <= BUFFER
    read(server, up)
    read(client, down)
    counts = web.control.counts("web").generations[1]
    asked = len(request("POST", "/", f"Content-Length: {256 * MIB}"))
    answered = len(response(200, f"Content-Length: {256 * MIB}"))
    assert counts.received_client == counts.sent_backend == up + asked
    assert counts.received_backend == counts.sent_client == down + answered


def test_counters_never_go_back(web: HttpService) -> None:
    web.route()
    client, server = web.asked(receive_buffer=4096)
    server.sendall(response(200, f"Content-Length: {256 * MIB}"))
    fill(server)
    before = web.control.counts("web").generations[1]
    reset(client)
    after = seen_when_closed(web)
    assert after.sent_client >= before.sent_client
    assert after.received_backend >= before.received_backend
    assert after.sent_client < after.received_backend


def test_nothing_is_left_behind(web: HttpService, worker: WorkerProcess) -> None:
    web.route()
    client, server = web.pair()
    client.close()
    seen_when_closed(web)
    before = worker.descriptors()
    for _ in range(20):
        client, server = web.pair()
        exchange(client, server, POST, response(100) + OK)
        client.close()
        assert read_to_end(server) == b""
    seen_when_closed(web)
    eventually(lambda: worker.descriptors() <= before or None)


def test_a_request_is_served_although_its_client_has_left_a_unix_socket_at_once(
    worker: WorkerProcess, tmp_path: Path
) -> None:
    public, backend = Listener(f"unix:{tmp_path}/public"), Listener("127.0.0.1:0")
    worker.control.route("web", 1, backend.address, http=wire.Http(forwarded="off"))
    worker.control.listen("web", public)
    with connect(public.address) as client:
        client.sendall(GET)
    with backend.accept() as server:
        assert read(server, len(GET)) == GET
    public.close()
    backend.close()
