"""A backend that goes away costs a client no request that can be sent again, and no request is processed twice."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from proxy.relay.http.exchange import HELD
from proxy.relay.http.upstream import FRESH
from tests.relay.harness import (
    CHUNKED,
    GET,
    OK,
    POST,
    HttpService,
    Listener,
    answer,
    ask,
    chunked,
    exchange,
    fill,
    read,
    read_response,
    read_to_end,
    request,
    reset,
    response,
    was_reset,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.relay.harness import WorkerProcess

IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")
ENDS = pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["closes", "resets"])


def arrives(web: HttpService, text: bytes = GET, backend: Listener | None = None) -> socket.socket:
    """Wait for a request on a new connection to the backend."""
    server = web.keep((backend or web.backend).accept())
    assert read(server, len(text)) == text
    return server


def goes_stale(web: HttpService, client: socket.socket, server: socket.socket, text: bytes, *, is_reset: bool) -> None:
    """The backend leaves a kept connection, and the worker has not seen that yet when it has this request to send."""
    web.worker.freeze()
    client.sendall(text)
    (reset if is_reset else socket.socket.close)(server)
    web.worker.thaw()


# Stale connections


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("method", [*IDEMPOTENT, "POST", "PATCH"])
def test_a_request_that_meets_a_stale_connection_is_answered(web: HttpService, method: str, *, is_reset: bool) -> None:
    web.route()
    client, server = web.pair()
    body = b"" if method in {"GET", "HEAD"} else b"body"
    text = request(method, "/thing", body=body)
    goes_stale(web, client, server, text, is_reset=is_reset)
    server = arrives(web, text)
    answer(client, server, response(204))
    exchange(client, server)
    counts = web.control.counts("web").generations[1]
    assert counts.requests == {"200": 2, "204": 1}
    assert counts.connections == 2


@ENDS
def test_a_request_that_reached_a_backend_which_left_is_sent_again(
    web: HttpService, leave: Callable[[socket.socket], None]
) -> None:
    web.route()
    for method in IDEMPOTENT:
        text = request(method, "/thing", body=b"" if method in {"GET", "HEAD"} else b"body")
        client, server = web.pair()
        ask(client, server, text)
        leave(server)
        answer(client, arrives(web, text), response(204))
    counts = web.control.counts("web")
    assert counts.retried == len(IDEMPOTENT)
    assert counts.generations[1].requests == {"200": len(IDEMPOTENT), "204": len(IDEMPOTENT)}


@ENDS
@pytest.mark.parametrize("method", ["POST", "PATCH", "MOVE"])
def test_a_request_that_may_have_been_processed_is_not_sent_again(
    web: HttpService, method: str, leave: Callable[[socket.socket], None]
) -> None:
    web.route()
    client, server = web.pair()
    text = request(method, "/orders", body="order")
    ask(client, server, text)
    leave(server)
    told = read_response(client)
    assert told.status == 502
    assert "connection" not in told.fields, "the request was read in full"
    assert web.is_silent(web.backend.sock)
    client.sendall(GET)
    answer(client, arrives(web))
    counts = web.control.counts("web")
    assert counts.retried == 0
    assert counts.generations[1].requests == {"200": 2, "502": 1}
    assert counts.answered == {}


@ENDS
def test_a_request_is_sent_again_only_once(web: HttpService, leave: Callable[[socket.socket], None]) -> None:
    web.route()
    client, server = web.pair()
    ask(client, server)
    leave(server)
    leave(arrives(web))
    assert read_response(client).status == 502
    assert web.is_silent(web.backend.sock)
    assert web.control.counts("web").retried == 1
    client.sendall(GET)
    leave(arrives(web))
    answer(client, arrives(web))
    assert web.control.counts("web").retried == 2, "once for each request"


# What has begun to be answered


@pytest.mark.parametrize("begun", [b"H", response(200, "Content-Length: 4")[:-2], b"nonsense\r\n\r\n"])
def test_a_request_whose_answer_had_begun_is_not_sent_again(web: HttpService, begun: bytes) -> None:
    web.route()
    client, server = web.pair()
    ask(client, server)
    server.sendall(begun)
    server.close()
    assert read_response(client).status == 502
    assert web.is_silent(web.backend.sock)


def test_a_request_that_got_a_hint_is_not_sent_again(web: HttpService) -> None:
    """Whoever hints has begun to process it."""
    web.route()
    client, server = web.pair()
    ask(client, server)
    answer(client, server, response(103))
    server.close()
    assert read_response(client).status == 502
    assert web.control.counts("web").retried == 0


# Bodies


def test_a_body_is_sent_again_as_far_as_it_came(web: HttpService) -> None:
    web.route()
    head = request("PUT", "/", "Content-Length: 10")
    client, server = web.asked(head + b"0123")
    ask(client, server, b"45")
    server.close()
    server = arrives(web, head + b"012345")
    ask(client, server, b"6789")
    answer(client, server)
    exchange(client, server)
    assert web.control.counts("web").retried == 1


def test_chunks_are_sent_again(web: HttpService) -> None:
    web.route()
    text = request("PUT", "/", CHUNKED) + chunked(b"abc", b"defg")
    client, server = web.asked(text[:-12])
    ask(client, server, text[-12:-3])
    server.close()
    server = arrives(web, text[:-3])
    ask(client, server, text[-3:])
    answer(client, server)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_body_of_up_to_64_kib_is_held_to_be_sent_again(web: HttpService, extra: int) -> None:
    web.route()
    size = HELD + extra
    head = request("PUT", "/", f"Content-Length: {size - 100 + 100:05}")
    body = b"x" * (size - len(head))
    head = request("PUT", "/", f"Content-Length: {len(body):05}")
    client, server = web.pair()
    client.sendall(head + body)
    assert read(server, size) == head + body
    server.close()
    if extra:
        assert read_response(client).status == 502
        assert web.control.counts("web").retried == 0
    else:
        answer(client, arrives(web, head + body))


def test_a_body_that_is_not_held_and_not_complete_ends_the_connection_with_the_answer(web: HttpService) -> None:
    web.route()
    client, server = web.asked(request("PUT", "/", "Content-Length: 300000"))
    ask(client, server, b"x" * 200_000)
    server.close()
    client.sendall(b"x")
    told = read_response(client)
    assert (told.status, told.fields["connection"]) == (502, "close")
    assert read_to_end(client) == b""


def test_a_body_that_its_backend_did_not_take_arrives_at_another(web: HttpService) -> None:
    """It waits in the worker when the backend leaves."""
    web.route()
    text = request("PUT", "/", "Content-Length: 50000") + b"x" * 50_000
    client, server = web.asked(text[:10_000])
    web.worker.freeze()
    client.sendall(text[10_000:])
    reset(server)
    web.worker.thaw()
    answer(client, arrives(web, text))


def test_what_is_sent_again_is_counted_as_received_once(web: HttpService) -> None:
    web.route()
    client, server = web.asked(POST.replace(b"POST", b"PUT"))
    server.close()
    answer(client, arrives(web, POST.replace(b"POST", b"PUT")))
    counts = web.control.counts("web").generations[1]
    assert (counts.received_client, counts.sent_backend) == (len(POST) - 1, 2 * len(POST) - 2)
    assert (counts.received_backend, counts.sent_client) == (len(OK), len(OK))


# Where it goes


def test_a_request_is_sent_again_to_another_replica(web: HttpService) -> None:
    replicas = [web.listener(), web.listener()]
    web.route(1, replicas[0])
    pairs = [web.pair(replicas[0]) for _ in range(4)]
    web.route(1, *replicas)
    for client, server in pairs:
        client.sendall(GET)
        assert read(server, len(GET)) == GET
        server.close()
        answer(client, arrives(web, backend=replicas[1]))
        client.close()
    assert web.is_silent(replicas[0].sock)


def test_a_request_is_sent_again_to_the_same_replica_where_the_other_one_is_gone(web: HttpService) -> None:
    replicas = [web.listener(), web.listener()]
    web.route(1, replicas[0])
    client, server = web.pair(replicas[0])
    web.route(1, *replicas)
    replicas[1].close()
    ask(client, server)
    server.close()
    answer(client, arrives(web, backend=replicas[0]))


def test_a_request_that_lost_its_backend_waits_for_the_next_one(web: HttpService) -> None:
    web.route()
    client, server = web.asked()
    web.backend.close()
    server.close()
    web.control.counts_when("web", lambda counts: counts.waiting == 1)
    backend = web.listener()
    web.route(2, backend)
    answer(client, arrives(web, backend=backend))


def test_a_request_that_lost_its_backend_while_the_service_is_held_waits(web: HttpService) -> None:
    web.route()
    client, server = web.asked()
    web.route(held=True)
    server.close()
    web.control.counts_when("web", lambda counts: counts.waiting == 1)
    assert web.is_silent(web.backend.sock)
    backend = web.listener()
    web.route(2, backend)
    answer(client, arrives(web, backend=backend))


# Requests that must not be sent twice


def test_a_post_on_a_connection_that_was_idle_for_long_gets_a_fresh_one(web: HttpService) -> None:
    """Backends close idle connections, and a request that meets this cannot be sent again."""
    web.route()
    posting, getting = web.pair(), web.pair()
    time.sleep(FRESH + 0.05)  # the passage of time is what this is about
    exchange(*getting)
    posting[0].sendall(POST)
    server = arrives(web, POST)
    answer(posting[0], server)
    assert read_to_end(posting[1]) == b""
    exchange(posting[0], server, POST)
    exchange(*getting, POST)
    assert web.control.counts("web").generations[1].connections == 3


def test_a_post_is_not_sent_on_a_connection_on_which_the_backend_has_spoken(
    web: HttpService, worker: WorkerProcess
) -> None:
    """An answer to nothing, 408 say, is what some servers give before they close."""
    web.route()
    client, server = web.pair()
    worker.freeze()
    client.sendall(POST)
    server.sendall(response(408))
    worker.thaw()
    again = arrives(web, POST)
    assert web.is_silent(client)
    answer(client, again)


def test_a_backend_that_resets_during_an_upload_is_told_of_at_once(web: HttpService) -> None:
    web.route()
    client, server = web.asked(request("POST", "/", f"Content-Length: {64 << 20}"))
    fill(client, limit=1 << 20)
    reset(server)
    told = read_response(client)
    assert (told.status, told.fields["connection"]) == (502, "close")
    client.close()
    web.control.counts_when("web", lambda counts: not counts.generations[1].active)


def test_a_client_that_leaves_while_its_request_is_sent_again_is_forgotten(web: HttpService) -> None:
    web.route()
    client, server = web.asked()
    server.close()
    server = arrives(web)
    reset(client)
    assert was_reset(server)
