"""What a switch, a drain and a stop are to HTTP clients: nobody is cut off, and every request is answered."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import pytest

from proxy import wire
from tests.relay.harness import (
    CHUNKED,
    CLOSE,
    GET,
    OK,
    POST,
    HttpService,
    Listener,
    answer,
    ask,
    chunked,
    eventually,
    exchange,
    read,
    read_head,
    read_response,
    read_to_end,
    request,
    response,
    was_reset,
)

if TYPE_CHECKING:
    import socket

    from tests.relay.harness import WorkerProcess


def arrives(web: HttpService, backend: Listener, text: bytes = GET) -> socket.socket:
    """Wait for a request on a new connection to this backend."""
    server = web.keep(backend.accept())
    assert read(server, len(text)) == text
    return server


@pytest.fixture
def new(web: HttpService) -> Listener:
    """The backend of the next generation."""
    return web.listener()


# Letting go


def test_a_client_with_nothing_in_flight_lets_go_at_once(web: HttpService, new: Listener) -> None:
    web.route(1)
    pairs = [web.pair() for _ in range(3)]
    assert web.route(2, new) == {2: 0}
    assert web.control.remaining() == wire.Remaining("web", 1, 0)
    for client, server in pairs:
        assert read_to_end(server) == b"", "the old version sees an ordinary end"
        client.sendall(GET)
        answer(client, arrives(web, new))
    counts = web.control.counts("web")
    assert counts.migrated == 3
    assert [counts.generations[number].active for number in (1, 2)] == [0, 3]
    assert web.control.ask(wire.Close, "web", 1).forced == 0


def test_the_end_of_a_drain_that_is_over_at_once_is_told(web: HttpService, new: Listener) -> None:
    web.route(1)
    web.pair()
    web.route(2, new)
    assert web.control.remaining() == wire.Remaining("web", 1, 0)


def test_a_client_in_the_middle_of_a_head_moves(web: HttpService, new: Listener) -> None:
    web.route(1)
    client, server = web.pair()
    client.sendall(POST[:30])
    web.route(2, new)
    assert read_to_end(server) == b""
    client.sendall(POST[30:])
    answer(client, arrives(web, new, POST))


def test_a_client_that_was_never_given_a_backend_goes_to_the_new_one(web: HttpService, new: Listener) -> None:
    web.route(1)
    client = web.client()
    web.route(2, new)
    client.sendall(GET)
    answer(client, arrives(web, new))
    assert web.control.counts("web").migrated == 0


def test_a_request_in_flight_stays_and_the_next_one_moves(web: HttpService, new: Listener) -> None:
    web.route(1)
    client, server = web.pair()
    ask(client, server, POST)
    assert web.route(2, new) == {1: 1, 2: 0}
    counts = web.control.counts("web").generations[1]
    assert (counts.active, counts.in_flight) == (1, 1)
    answer(client, server)
    assert read_to_end(server) == b""
    assert web.control.remaining() == wire.Remaining("web", 1, 0)
    client.sendall(GET)
    answer(client, arrives(web, new))
    assert web.control.counts("web").migrated == 1


def test_an_upload_and_a_download_finish_with_the_version_that_began_them(web: HttpService, new: Listener) -> None:
    web.route(1)
    uploading = web.asked(request("POST", "/", CHUNKED) + b"3\r\nabc\r\n")
    downloading = web.asked()
    answer(*downloading, response(200, CHUNKED) + b"3\r\nabc\r\n")
    web.route(2, new)
    ask(*uploading, b"4\r\nmore\r\n0\r\n\r\n")
    answer(*downloading, b"4\r\nmore\r\n0\r\n\r\n")
    answer(*uploading)
    for client, server in (uploading, downloading):
        assert read_to_end(server) == b""
        client.sendall(GET)
        answer(client, arrives(web, new))
    assert web.control.counts("web").migrated == 2


def test_the_rest_of_an_upload_that_was_answered_early_still_goes_to_the_old_version(
    web: HttpService, new: Listener
) -> None:
    web.route(1)
    client, server = web.asked(request("POST", "/", "Content-Length: 10") + b"01234")
    answer(client, server)
    web.route(2, new)
    ask(client, server, b"56789")
    assert read_to_end(server) == b""
    client.sendall(GET)
    answer(client, arrives(web, new))


def test_requests_sent_ahead_move_one_by_one(web: HttpService, new: Listener) -> None:
    web.route(1)
    client, server = web.asked()
    client.sendall(request("GET", "/next") + request("GET", "/last"))
    web.route(2, new)
    answer(client, server)
    newer = arrives(web, new, request("GET", "/next"))
    assert read_to_end(server) == b""
    newest = web.listener()
    web.route(3, newest)
    answer(client, newer)
    answer(client, arrives(web, newest, request("GET", "/last")))
    assert web.control.counts("web").migrated == 2


def test_a_client_that_is_slow_to_take_its_response_lets_go_of_its_backend(web: HttpService, new: Listener) -> None:
    """The drain need not wait for it: what is left of the response is in the worker."""
    web.route(1)
    client, server, size = web.flushing()
    assert web.route(2, new) == {2: 0}
    assert read_to_end(server) == b""
    read(client, size)
    client.sendall(GET)
    answer(client, arrives(web, new))
    counts = web.control.counts("web")
    assert counts.migrated == 1
    assert counts.generations[1].received_backend == counts.generations[1].sent_client == size


def test_a_request_that_is_being_connected_goes_to_the_new_version(web: HttpService, new: Listener) -> None:
    backend, _knocker = web.full_listener()
    web.route(1, backend)
    client = web.client()
    client.sendall(GET)
    web.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    web.route(2, new)
    answer(client, arrives(web, new))
    assert web.control.counts("web").generations[1].active == 0


def test_a_request_that_is_retried_goes_to_the_new_version(web: HttpService, new: Listener) -> None:
    web.route(1)
    client, server = web.asked()
    web.route(2, new)
    server.close()
    answer(client, arrives(web, new))


def test_a_client_comes_back_to_a_generation(web: HttpService, new: Listener) -> None:
    web.route(1)
    client, _ = web.pair()
    for generation, backend in ((2, new), (1, web.backend), (2, new)):
        web.route(generation, backend)
        client.sendall(GET)
        answer(client, arrives(web, backend))
    counts = web.control.counts("web")
    assert counts.migrated == 3
    assert [counts.generations[number].connections for number in (1, 2)] == [2, 2]


def test_a_route_that_changes_nothing_moves_nobody(web: HttpService) -> None:
    web.route(1)
    pair = web.pair()
    for policy in ({}, {"idle_timeout": 60.0}, {"balance": "round_robin"}, {"held": True}, {}):
        web.route(1, **policy)
    exchange(*pair)
    assert web.control.counts("web").migrated == 0


# Held and paused


@pytest.mark.parametrize("policy", ["held", "paused"])
def test_a_request_on_a_kept_connection_waits_like_a_new_connection(
    web: HttpService, new: Listener, policy: str
) -> None:
    web.route(1)
    client, server = web.pair()
    web.route(1, **{policy: True, "connect_timeout": 0.05})
    client.sendall(POST)
    web.control.counts_when("web", lambda counts: counts.waiting == 1)
    assert web.is_silent(server)
    web.route(2, new)
    answer(client, arrives(web, new, POST))
    assert read_to_end(server) == b""
    assert web.control.counts("web").migrated == 1
    assert web.control.counts("web").waiting == 0


def test_a_request_that_was_paused_goes_on_with_the_connection_it_had(web: HttpService) -> None:
    web.route(1)
    client, server = web.pair()
    web.route(1, paused=True)
    client.sendall(GET)
    web.control.counts_when("web", lambda counts: counts.waiting == 1)
    web.route(1)
    assert read(server, len(GET)) == GET
    answer(client, server)
    assert web.control.counts("web").generations[1].connections == 1


def test_a_request_that_was_paused_while_its_backend_closed_goes_on_with_another(web: HttpService) -> None:
    web.route(1)
    client, server = web.pair()
    web.route(1, paused=True)
    client.sendall(POST)
    web.control.counts_when("web", lambda counts: counts.waiting == 1)
    server.close()
    web.control.counts_when("web", lambda counts: not counts.generations[1].active)
    web.route(1)
    answer(client, arrives(web, web.backend, POST))


def test_a_request_in_flight_is_not_paused(web: HttpService) -> None:
    web.route(1)
    client, server = web.asked(request("POST", "/", "Content-Length: 2"))
    web.route(1, paused=True)
    ask(client, server, b"ab")
    answer(client, server)
    client.sendall(GET)
    web.control.counts_when("web", lambda counts: counts.waiting == 1)
    assert web.is_silent(server)
    web.route(1)
    assert read(server, len(GET)) == GET


def test_an_upload_that_begins_while_the_service_is_held_arrives_whole(web: HttpService, new: Listener) -> None:
    web.route(1, held=True)
    head, body = request("POST", "/", "Content-Length: 300000"), b"x" * 300_000
    client = web.seeking(head + body[:1000])
    client.sendall(body[1000:])
    web.route(2, new)
    server = arrives(web, new, head + body)
    answer(client, server)


def test_requests_that_were_held_are_all_answered(web: HttpService, new: Listener) -> None:
    web.route(1)
    pairs = [web.pair() for _ in range(150)]
    web.route(1, held=True)
    for number, (client, _) in enumerate(pairs):
        client.sendall(request("GET", f"/{number}"))
    web.control.counts_when("web", lambda counts: counts.waiting == 150)
    web.route(2, new)
    for _ in pairs:
        server = web.keep(new.accept())
        number = int(read_head(server).split()[1][1:])
        answer(pairs[number][0], server, response(body=str(number)))
    assert web.control.counts("web").migrated == 150


def test_requests_go_on_along_the_present_route_when_control_leaves_during_a_switch(
    web: HttpService, worker: WorkerProcess
) -> None:
    web.route(1)
    client, server = web.pair()
    web.route(1, held=True)
    client.sendall(GET)
    web.control.counts_when("web", lambda counts: counts.waiting == 1)
    worker.reconnect()
    assert read(server, len(GET)) == GET
    answer(client, server)


def test_a_request_that_arrives_although_the_service_is_paused_is_the_last(web: HttpService) -> None:
    """Its connection was under way."""
    backend, knocker = web.full_listener()
    web.route(1, backend)
    client = web.client()
    client.sendall(GET)
    web.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    web.route(1, backend, paused=True)
    backend.accept().close()
    server = arrives(web, backend)
    answer(client, server)
    client.sendall(GET)
    web.control.counts_when("web", lambda counts: counts.waiting == 1)
    assert web.is_silent(server)
    web.route(1, backend)
    assert read(server, len(GET)) == GET
    assert read_to_end(knocker) == b""


# The deadline


def test_a_request_that_is_not_answered_by_the_deadline_is_told_so(web: HttpService, new: Listener) -> None:
    web.route(1)
    client, server = web.pair()
    ask(client, server)
    web.route(2, new)
    assert web.control.ask(wire.Close, "web", 1).forced == 1
    told = read_response(client)
    assert told.status == 504
    assert "connection" not in told.fields
    assert was_reset(server)
    client.sendall(GET)
    answer(client, arrives(web, new))
    counts = web.control.counts("web")
    assert counts.generations[1].requests == {"200": 1, "504": 1}
    assert counts.generations[1].in_flight == 0
    assert web.control.remaining() == wire.Remaining("web", 1, 0)


def test_an_upload_that_is_not_answered_by_the_deadline_is_told_so(web: HttpService, new: Listener) -> None:
    web.route(1)
    client, server = web.asked(request("POST", "/", "Content-Length: 1000") + b"part")
    web.route(2, new)
    web.control.ask(wire.Close, "web", 1)
    told = read_response(client)
    assert (told.status, told.fields["connection"]) == (504, "close")
    assert read_to_end(client) == b""
    assert was_reset(server)


def test_a_response_that_is_cut_short_by_the_deadline_is_not_taken_for_whole(web: HttpService, new: Listener) -> None:
    web.route(1)
    pairs = []
    for text in (
        response(200, CHUNKED) + chunked(b"abc")[:-5],
        response(200, "Content-Length: 100") + b"abc",
        b"HTTP/1.1 200 Said\r\n\r\nuntil the end",
        response(200, CHUNKED),
    ):
        pairs.append(web.asked())
        answer(*pairs[-1], text)
    web.route(2, new)
    assert web.control.ask(wire.Close, "web", 1).forced == 4
    for client, server in pairs:
        assert was_reset(client)
        assert was_reset(server)
    assert web.control.counts("web").generations[1].requests == {}


def test_a_request_that_got_only_hints_by_the_deadline_is_told_so(web: HttpService, new: Listener) -> None:
    web.route(1)
    client, server = web.asked()
    answer(client, server, response(103, "Link: </a.css>"))
    web.route(2, new)
    web.control.ask(wire.Close, "web", 1)
    assert read_response(client).status == 504


def test_requests_sent_ahead_of_one_that_met_the_deadline_go_to_the_new_version(
    web: HttpService, new: Listener
) -> None:
    web.route(1)
    client, _server = web.asked()
    client.sendall(POST)
    web.route(2, new)
    web.control.ask(wire.Close, "web", 1)
    assert read_response(client).status == 504
    answer(client, arrives(web, new, POST))


def test_an_upload_that_was_answered_early_ends_at_the_deadline(web: HttpService, new: Listener) -> None:
    web.route(1)
    client, server = web.asked(request("POST", "/", "Content-Length: 1000") + b"part")
    answer(client, server)
    web.route(2, new)
    assert web.control.ask(wire.Close, "web", 1).forced == 1
    was_reset(client)
    was_reset(server)
    web.control.counts_when("web", lambda counts: not counts.generations[1].active)


def test_closing_the_generation_that_serves_interrupts_only_what_is_in_flight(web: HttpService) -> None:
    web.route(1)
    idle, busy = web.pair(), web.asked()
    assert web.control.ask(wire.Close, "web", 1).forced == 2
    assert read_response(busy[0]).status == 504
    assert read_to_end(idle[1]) == b""
    idle[0].sendall(GET)
    answer(idle[0], arrives(web, web.backend))


# A service that ends


def test_a_service_that_ends_closes_connections_once_they_are_idle(web: HttpService) -> None:
    web.route(1)
    client, server = web.pair()
    fresh = web.client()
    web.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    assert web.end() == {0: 0, 1: 1}
    late = web.client()
    for sock in (client, server, fresh, late):
        assert read_to_end(sock) == b""
    assert web.control.remaining() == wire.Remaining("web", 1, 0)
    assert web.control.counts("web").migrated == 0


def test_a_service_that_ends_tells_those_who_are_busy_to_close(web: HttpService) -> None:
    web.route(1)
    client, server = web.pair()
    ask(client, server)
    web.end()
    server.sendall(OK)
    told = read_response(client)
    assert (told.status, told.fields["connection"], told.body) == (200, "close", b"fine")
    assert read_to_end(client) == b""
    assert read_to_end(server) == b""


def test_a_service_that_ends_says_so_once(web: HttpService) -> None:
    web.route(1)
    client, server = web.asked()
    web.end()
    server.sendall(response(200, CLOSE, body="bye"))
    assert read_head(client).lower().count(b"connection: close") == 1
    assert read_to_end(client) == b"bye"


def test_a_service_that_ends_says_so_where_its_backend_says_otherwise(web: HttpService) -> None:
    web.route(1)
    client, server = web.asked()
    web.end()
    server.sendall(response(200, "Connection: keep-alive", "Keep-Alive: timeout=5", body="fine"))
    assert read_response(client).fields["connection"] == "close"
    assert read_to_end(client) == b""


def test_a_service_that_ends_says_so_where_the_head_comes_in_pieces(web: HttpService) -> None:
    web.route(1)
    client, server = web.asked()
    web.end()
    server.sendall(OK[:20])
    assert web.is_silent(client)
    server.sendall(OK[20:])
    assert read_response(client).fields["connection"] == "close"
    assert read_to_end(client) == b""


def test_a_response_that_is_under_way_when_the_service_ends_arrives_whole(web: HttpService) -> None:
    web.route(1)
    client, server = web.asked()
    answer(client, server, response(200, "Content-Length: 10") + b"01234")
    web.end()
    answer(client, server, b"56789")
    assert read_to_end(client) == b""
    assert read_to_end(server) == b""


def test_a_request_that_comes_before_its_connection_is_idle_is_still_served_by_a_service_that_ends(
    web: HttpService,
) -> None:
    web.route(1)
    client, server = web.pair()
    web.end()
    ask(client, server)
    server.sendall(OK)
    assert read_response(client).fields["connection"] == "close"
    assert read_to_end(client) == b""


def test_a_request_that_a_service_which_has_ended_cannot_serve_is_told_so(web: HttpService) -> None:
    web.route(1)
    client = web.client()
    other = web.pair()
    web.end()
    client.sendall(GET)
    told = read_response(client)
    assert (told.status, told.fields["connection"]) == (503, "close")
    assert read_to_end(client) == b""
    other[0].close()


def test_a_client_that_is_slow_to_take_its_response_gets_all_of_it_from_a_service_that_ends(web: HttpService) -> None:
    web.route(1)
    client, server, size = web.flushing()
    web.end()
    read(client, size)
    assert read_to_end(client) == b"", "it is closed when it is idle"
    assert read_to_end(server) == b""


def test_a_response_that_is_not_taken_by_the_end_of_the_service_is_not_taken_for_whole(web: HttpService) -> None:
    web.route(1)
    client, _server, size = web.flushing()
    web.end()
    web.control.ask(wire.Close, "web", 1)
    web.control.ask(wire.Forget, "web")
    assert was_reset(client)
    assert size


def test_who_is_being_connected_may_arrive_when_the_service_ends(web: HttpService) -> None:
    backend, knocker = web.full_listener()
    web.route(1, backend)
    client = web.client()
    client.sendall(GET)
    web.control.counts_when("web", lambda counts: counts.generations[1].active == 1)
    web.end()
    backend.accept().close()
    server = arrives(web, backend)
    server.sendall(OK)
    assert read_response(client).fields["connection"] == "close"
    assert read_to_end(knocker) == b""


def test_at_the_deadline_of_a_service_that_ends_everybody_leaves(web: HttpService) -> None:
    web.route(1)
    idle, busy, cut = web.pair(), web.asked(), web.asked()
    answer(*cut, response(200, "Content-Length: 100") + b"part")
    web.end()
    assert web.control.ask(wire.Close, "web", 1).forced == 3
    told = read_response(busy[0])
    assert (told.status, told.fields["connection"]) == (504, "close")
    assert read_to_end(busy[0]) == b""
    assert was_reset(cut[0])
    assert read_to_end(idle[0]) == b""
    assert web.control.remaining() == wire.Remaining("web", 1, 0)


def test_a_forgotten_service_leaves_nothing_behind(web: HttpService, worker: WorkerProcess) -> None:
    web.control.ask(wire.Forget, "web")
    before = worker.descriptors()
    web.control.listen("web", web.public)
    web.route(1)
    idle, busy, cut = web.pair(), web.asked(), web.asked()
    answer(*cut, response(200, "Content-Length: 100") + b"part")
    fresh, beginning = web.client(), web.client()
    beginning.sendall(GET[:10])
    web.route(1, held=True)
    waiting = web.seeking()
    web.control.ask(wire.Forget, "web")
    for sock in (*idle, *busy, *cut, fresh, beginning, waiting):
        was_reset(sock)
    eventually(lambda: worker.descriptors() <= before or None)
    assert web.control.answers(web.control.send(wire.Snapshot))[:-1] == []


def test_a_generation_is_forgotten_when_it_is_gone_and_not_before(web: HttpService, new: Listener) -> None:
    web.route(1)
    client, server = web.asked()
    web.pair()
    web.route(2, new)
    assert "1 connections" in web.control.refused(wire.Forget, "web", 1)
    answer(client, server)
    web.control.ask(wire.Forget, "web", 1)
    assert list(web.control.counts("web").generations) == [2]


# Drains that take longer


def test_the_progress_of_a_drain_is_told(web: HttpService, new: Listener) -> None:
    web.route(1)
    pairs = [web.asked() for _ in range(5)]
    idle = [web.pair() for _ in range(5)]
    assert web.route(2, new) == {1: 5, 2: 0}
    assert web.control.remaining().connections >= 5
    for client, server in pairs:
        answer(client, server)
    told = web.control.remaining()
    while told.connections:
        assert (told.service, told.generation) == ("web", 1)
        told = web.control.remaining()
    assert web.control.counts("web").migrated == len(pairs) + len(idle)


def test_what_is_in_flight_is_counted_by_generation(web: HttpService, new: Listener) -> None:
    web.route(1)
    old = [web.asked() for _ in range(2)]
    web.pair()
    web.route(2, new)
    young = [web.asked(backend=new) for _ in range(3)]
    web.pair(new)
    counts = web.control.counts("web").generations
    assert [(counts[number].active, counts[number].in_flight) for number in (1, 2)] == [(2, 2), (4, 3)]
    for pair in old + young:
        answer(*pair)
    counts = web.control.counts("web").generations
    assert [(counts[number].active, counts[number].in_flight) for number in (1, 2)] == [(0, 0), (4, 0)]
    assert [counts[number].requests for number in (1, 2)] == [{"200": 3}, {"200": 4}]


# Among replicas


@pytest.fixture
def replicas(web: HttpService) -> list[Listener]:
    """Two, in the service's route."""
    made = [web.listener(), web.listener()]
    web.route(1, *made)
    return made


def placed(web: HttpService, replicas: list[Listener]) -> tuple[socket.socket, socket.socket, Listener]:
    """A new client whose request is in flight, the backend's end, and the replica that got it."""
    client = web.client()
    client.sendall(GET)
    poll = select.poll()
    for replica in replicas:
        poll.register(replica.sock, select.POLLIN)
    [(fd, _)] = poll.poll(20_000)
    [chosen] = [replica for replica in replicas if replica.sock.fileno() == fd]
    return client, arrives(web, chosen), chosen


def test_a_request_goes_to_a_replica_that_has_less_to_do(web: HttpService, replicas: list[Listener]) -> None:
    first, second = placed(web, replicas), placed(web, replicas)
    assert first[2] is not second[2]
    answer(*first[:2])
    answer(*second[:2])
    client, server, chosen = placed(web, replicas)
    [(moving, left, _)] = [each for each in (first, second) if each[2] is chosen]
    [(staying, kept, other)] = [each for each in (first, second) if each[2] is not chosen]
    moving.sendall(GET)
    answer(moving, arrives(web, other))
    assert read_to_end(left) == b""
    exchange(staying, kept)
    answer(client, server)
    assert web.control.counts("web").migrated == 0, "that was no switch"
    assert web.control.counts("web").generations[1].connections == 4


def test_a_connection_is_kept_while_another_replica_has_not_much_less_to_do(
    web: HttpService, replicas: list[Listener]
) -> None:
    client, server, chosen = placed(web, replicas)
    answer(client, server)
    for _ in range(3):
        exchange(client, server)
    busy = [placed(web, replicas) for _ in range(3)]
    if [each[2] for each in busy].count(chosen) == 2:  # two to one
        exchange(client, server)
    for pair in busy:
        answer(*pair[:2])
    exchange(client, server)


def test_a_balance_that_does_not_look_at_the_load_moves_nobody(web: HttpService, replicas: list[Listener]) -> None:
    web.route(1, *replicas, balance="round_robin")
    pairs = [placed(web, replicas) for _ in range(4)]
    for client, server, _ in pairs:
        answer(client, server)
        for _ in range(3):
            exchange(client, server)


def test_a_replica_that_left_the_route_gets_no_more_requests(web: HttpService, replicas: list[Listener]) -> None:
    first, second = placed(web, replicas), placed(web, replicas)
    answer(*first[:2])
    web.route(1, first[2])
    client, server, _ = second
    answer(client, server)
    client.sendall(GET)
    answer(client, arrives(web, first[2]))
    assert read_to_end(server) == b""
    exchange(*first[:2])
    assert web.control.counts("web").migrated == 0


def test_a_replica_that_comes_gets_requests_of_open_connections(web: HttpService, replicas: list[Listener]) -> None:
    web.route(1, replicas[0])
    pairs = [web.pair(replicas[0]) for _ in range(2)]
    web.route(1, *replicas)
    ask(*pairs[0])
    pairs[1][0].sendall(GET)
    answer(pairs[1][0], arrives(web, replicas[1]))
    answer(*pairs[0])
