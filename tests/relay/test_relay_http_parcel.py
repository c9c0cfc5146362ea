"""An HTTP client goes from one worker to another, at any moment: nobody notices, and nothing is counted twice."""

from __future__ import annotations

import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.relay.engine import BUFFER
from proxy.relay.http.parcel import check, unpack
from proxy.relay.http.reader import NAMES
from proxy.relay.parcel import Parcel
from proxy.relay.place import place_of
from tests.core.http.test_http_conversations import SMALL
from tests.relay.harness import CHUNKED, CLOSE, GET, OK, POST, chunked, request, reset, response
from tests.relay.journeys import HTTP, Journey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.core.http.conversations.conversation import Conversation

SEEN: Counter[str] = Counter()  # in which states clients have travelled
BULK = 700_000
EXPECTS = request("PUT", "/", "Expect: 100-continue", "Content-Length: 5")
UPGRADE = request("GET", "/", "Connection: Upgrade", "Upgrade: echo")
AGREED = response(101, "Connection: Upgrade", "Upgrade: echo")


# What happens, one step after the other


def asks(data: bytes) -> Callable[[Journey], None]:
    def step(journey: Journey) -> None:
        journey.client.to_say += data

    return step


def answers(data: bytes) -> Callable[[Journey], None]:
    def step(journey: Journey) -> None:
        journey.server.to_say += data

    return step


def client_listens(listens: bool) -> Callable[[Journey], None]:
    return lambda journey: setattr(journey.client, "listens", listens)


def server_listens(listens: bool) -> Callable[[Journey], None]:
    return lambda journey: setattr(journey.server, "listens", listens)


def client_shuts(journey: Journey) -> None:
    journey.client.sock.shutdown(socket.SHUT_WR)


def server_closes(journey: Journey) -> None:
    journey.server.sock.shutdown(socket.SHUT_RDWR)


def server_resets(journey: Journey) -> None:
    number = journey.server.sock.dup()
    journey.server.sock.close()
    reset(number)
    journey.server.has_ended = True


def pauses(journey: Journey) -> None:
    journey.route(paused=True)


def goes_on(journey: Journey) -> None:
    journey.route()


STORIES: dict[str, list[Callable[[Journey], None]]] = {
    "kept": [asks(GET), answers(OK), asks(POST), answers(OK), client_shuts],
    "heads in pieces": [asks(GET[:9]), asks(GET[9:]), answers(OK[:9]), answers(OK[9:30]), answers(OK[30:])],
    "an empty line first": [asks(b"\r"), asks(b"\nGE"), asks(b"T / HTTP/1.1\r\nHost: a\r\n\r\n"), answers(OK)],
    "asked ahead": [asks(GET + POST + GET[:7]), answers(OK), answers(OK), asks(GET[7:]), answers(OK)],
    "a body in pieces": [asks(POST[:-5]), asks(b"or"), asks(b"der"), answers(OK[:-4]), answers(b"fi"), answers(b"ne")],
    "chunks": [
        asks(request("POST", "/", CHUNKED) + b"3\r\nab"),
        asks(b"c\r"),
        asks(b"\n0\r\nX-Sum: "),
        asks(b"1\r\n\r\n"),
        answers(response(200, CHUNKED) + b"3;a=b\r\nabc\r\n1"),
        answers(b"0\r\n" + bytes(16) + b"\r\n0"),
        answers(b"\r\n\r\n"),
        asks(GET),
        answers(OK),
    ],
    "until the end": [asks(GET), answers(b"HTTP/1.1 200 OK\r\n\r\nsome"), answers(b"more"), server_closes],
    "told to go on": [asks(EXPECTS), answers(response(100)), asks(b"order"), answers(OK), asks(GET), answers(OK)],
    "told to go on, and left": [asks(EXPECTS), answers(response(100)), asks(b"order"), server_closes],
    "not told to go on": [asks(EXPECTS), answers(response(417)), asks(b"order")],
    "hints": [asks(GET), answers(response(103, "Link: a")[:20]), answers(response(103, "Link: a")[20:]), answers(OK)],
    "HEAD": [asks(request("HEAD")), answers(response(200, "Content-Length: 5")), asks(GET), answers(OK)],
    "not modified": [asks(GET), answers(response(304)), asks(GET), answers(OK)],
    "closing": [asks(GET), answers(response(200, CLOSE, body="fi")[:-1]), answers(b"i")],
    "the client's end first": [asks(POST), client_shuts, answers(OK)],
    "the client's end in an upload": [asks(POST[:-2]), client_shuts, answers(OK)],
    "a websocket": [asks(UPGRADE + b"early"), answers(AGREED[:30]), answers(AGREED[30:] + b"hello"), asks(b"hello")],
    "a refused websocket": [asks(UPGRADE), answers(OK), asks(GET), answers(OK)],
    "CONNECT": [asks(request("CONNECT", "a:1")), answers(response(200)), asks(b"\0"), answers(b"\1")],
    "something else": [pauses, asks(b"\x16\x03\x01\0"), goes_on, answers(b"\x16\x03"), asks(b"\0")],
    "a pause": [asks(GET), answers(OK), pauses, asks(POST), goes_on, answers(OK)],
    "a pause for one that is new": [pauses, asks(POST[:-3]), goes_on, asks(POST[-3:]), answers(OK)],
    "an invalid one": [asks(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"), asks(b"more"), client_shuts],
    "an invalid body": [asks(request("POST", "/", CHUNKED)), asks(b"x"), asks(b"more"), client_shuts],
    "an invalid answer": [asks(POST), answers(b"HTTP/1.1 OK\r\n\r\n"), asks(GET), answers(OK)],
    "a download that is not taken": [
        client_listens(False),
        asks(GET + GET),
        answers(response(body=bytes(BULK))),
        asks(POST),
        client_listens(True),
        answers(OK),
        answers(OK),
    ],
    "an answer whose end is not taken": [
        client_listens(False),
        asks(GET),
        answers(response(body=bytes(100_000))),
        asks(GET),
        client_listens(True),
        answers(OK),
    ],
    "an answer whose end is not taken before the connection ends": [
        client_listens(False),
        asks(request("GET", "/", CLOSE)),
        answers(response(body=bytes(100_000))),
        client_listens(True),
    ],
    "an upload that is not taken": [
        asks(GET),
        answers(OK),
        server_listens(False),
        asks(request("POST", body=bytes(BULK))),
        answers(response(body=bytes(1000))[:-1]),
        server_listens(True),
        answers(b"\0"),
        asks(GET),
        answers(OK),
    ],
    "a client's end behind an upload that is not taken": [
        asks(GET),
        answers(OK),
        server_listens(False),
        asks(request("POST", body=bytes(100_000))),
        client_shuts,
        server_listens(True),
    ],
    "an upload that is answered early": [
        asks(GET),
        answers(OK),
        server_listens(False),
        asks(request("POST", body=bytes(BULK))),
        answers(response()),
        server_listens(True),
        asks(GET),
        answers(OK),
    ],
    "both at once": [
        asks(GET),
        answers(OK),
        server_listens(False),
        client_listens(False),
        asks(request("POST", "/", CHUNKED) + chunked(bytes(BULK), b"abc")),
        answers(response(200, CHUNKED) + chunked(bytes(BULK), b"abc")),
        server_listens(True),
        client_listens(True),
    ],
    "a kept connection that breaks": [asks(GET), answers(OK), server_closes, asks(GET), answers(OK)],
    "an answer that breaks off": [asks(GET), answers(OK[:-1]), server_closes],
    "an answer that is reset": [asks(GET), answers(OK[:-1]), server_resets],
    "an upload that breaks off": [asks(POST[:-1]), server_closes, asks(POST[-1:]), asks(GET)],
    "a head that breaks off": [asks(GET[:-1]), client_shuts],
}


def play(name: str, travels: set[int], kind: str = "unix") -> tuple[object, ...]:
    """Let a story happen, the client travelling before some of its steps; return what was seen and counted."""
    with Journey(kind) as journey:
        journey.settle()
        for number, step in enumerate([*STORIES[name], lambda _: None]):
            if number in travels:
                travelled = journey.travel()
                assert not travelled or journey.places[1 - journey.here].is_empty()
            step(journey)
            journey.settle()
        found = journey.outcome()
        SEEN.update(journey.travelled)
        journey.client.sock.close()
        for server in journey.servers:
            server.sock.close()
        for place in journey.places:
            while place.engine._pass():
                pass
            assert place.is_empty()
        return found


@pytest.mark.parametrize("name", STORIES)
def test_a_client_may_travel_at_any_moment(name: str) -> None:
    at_home = play(name, set())
    assert STORIES[name]
    steps = range(len(STORIES[name]) + 1)
    for step in steps:
        assert play(name, {step}) == at_home, f"travelled before step {step}"
    assert play(name, set(steps)) == at_home


@pytest.mark.parametrize("name", STORIES)
def test_a_client_may_travel_all_the_time(name: str) -> None:
    """Over TCP, which tells of ends and resets in another way."""
    assert play(name, set(range(20)), "ipv4") == play(name, set(), "ipv4")


def test_clients_have_travelled_in_every_state() -> None:
    """The stories before are what they are meant to be."""
    for name in ("a download that is not taken", "an upload that is not taken", "an answer whose end is not taken"):
        play(name, set(range(10)))
    for name in ("a pause", "an invalid one", "both at once"):
        play(name, set(range(10)))
    for state in (*NAMES, "pending", "pending for the backend", "with a backend"):
        assert SEEN[state], state


@pytest.fixture(params=["unix", "ipv4"])
def journey(request: pytest.FixtureRequest) -> Iterator[Journey]:
    with Journey(request.param) as made:
        made.settle()
        yield made


def tell(journey: Journey, *steps: Callable[[Journey], None]) -> None:
    for step in steps:
        step(journey)
        journey.settle()


@given(st.sampled_from(SMALL), st.lists(st.tuples(st.booleans(), st.integers(1, 60), st.booleans()), max_size=40))
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_whatever_is_said_is_relayed_as_if_nobody_had_travelled(
    conversation: Conversation, moves: list[tuple[bool, int, bool]]
) -> None:
    def converse(*, travels: bool) -> tuple[object, ...]:
        with Journey() as journey:
            asked, answered = conversation.client.wire, conversation.backend.wire or OK * 3
            for is_client, size, travels_then in moves:
                if is_client:
                    journey.client.to_say, asked = asked[:size], asked[size:]
                elif journey.servers:
                    journey.server.to_say, answered = answered[:size], answered[size:]
                journey.settle()
                if travels and travels_then:
                    journey.travel()
                    journey.settle()
            journey.client.to_say = asked
            journey.settle()
            if journey.servers:
                journey.server.to_say = answered
            journey.settle()
            return journey.outcome()

    assert converse(travels=True) == converse(travels=False)


# What is counted


def test_what_was_counted_stays_where_it_was_and_what_comes_is_counted_where_it_happens(journey: Journey) -> None:
    tell(journey, asks(GET), answers(OK), asks(POST[:-2]))
    journey.travel()
    tell(journey, asks(POST[-2:]), answers(OK))
    old, new = (place.service.generations[1] for place in journey.places)
    assert dict(old.requests) == {200: 1}
    assert dict(new.requests) == {200: 1}
    assert (old.connections, new.connections) == (1, 0)
    assert old.upstream.received == len(GET + POST[:-2])
    assert new.upstream.received == 2
    assert sum(old.duration.counts) == 0, "it has not ended"
    client_shuts(journey)
    journey.settle()
    assert (sum(old.duration.counts), sum(new.duration.counts)) == (0, 1)
    assert [place.service.migrated for place in journey.places] == [0, 0]


def test_what_is_pending_is_unsent_in_one_place_and_sent_in_the_other(journey: Journey) -> None:
    size = 100_000
    tell(journey, client_listens(False), asks(GET), answers(response(body=bytes(size))))
    old, new = (place.service.generations[1].downstream for place in journey.places)
    unsent = old.unsent
    assert unsent > 0
    journey.travel()
    assert (old.unsent, new.unsent) == (unsent, 0)
    tell(journey, client_listens(True))
    assert (old.unsent, new.unsent) == (unsent, -unsent)
    assert old.sent + new.sent == old.received + new.received == len(response(body=bytes(size)))


def test_a_client_that_does_not_read_has_no_more_kept_for_it_by_travelling(journey: Journey) -> None:
    tell(journey, client_listens(False), asks(GET), answers(response(body=bytes(BULK))))
    for _ in range(4):
        parcels = journey.pack()
        assert 0 < len(parcels[0].state["pending"]) <= BUFFER
        journey.unpack(parcels, 1 - journey.here)
        journey.settle()
    tell(journey, client_listens(True))
    assert journey.client.heard == response(body=bytes(BULK))


def test_the_old_worker_tells_nobody_that_a_generation_is_left(journey: Journey) -> None:
    """Control would take it for drained while its last connection is on the way."""
    tell(journey, asks(POST))
    journey.route(generation=2)
    parcels = journey.pack()
    assert journey.places[0].is_empty()
    assert journey.places[0].announced == []
    journey.unpack(parcels, 1)
    assert journey.place.service.counts
    assert len(journey.place.service.generations[1].members) == 1
    assert journey.place.service.generations[1].counts(1).active == 1
    tell(journey, answers(OK), client_shuts)
    assert journey.place.announced == [("web", 1, 0)]
    assert journey.places[0].announced == []


def test_what_is_taken_back_is_as_it_was(journey: Journey) -> None:
    tell(journey, asks(GET), answers(OK), asks(POST[:-2]))
    before = journey.totals()
    journey.unpack(journey.pack(), 0)
    journey.settle()
    assert journey.totals() == before
    tell(journey, asks(POST[-2:]), answers(OK))
    assert journey.client.heard == OK + OK
    assert journey.server.heard == GET + POST
    assert journey.places[1].is_empty()


def test_a_worker_has_room_for_those_that_come_and_those_that_left_free_theirs(journey: Journey) -> None:
    journey.route(places=(1,))
    assert [place.gate.clients for place in journey.places] == [1, 0]
    journey.travel()
    assert [place.gate.clients for place in journey.places] == [0, 1]


# What happens on the way


def test_what_both_ends_say_meanwhile_is_not_lost(journey: Journey) -> None:
    tell(journey, asks(POST[:-2]))
    parcels = journey.pack()
    tell(journey, asks(POST[-2:]), answers(OK))
    journey.unpack(parcels, 1)
    journey.settle()
    assert (journey.client.heard, journey.server.heard) == (OK, POST)


def test_a_client_that_leaves_meanwhile_is_noticed(journey: Journey) -> None:
    tell(journey, asks(GET), answers(OK))
    parcels = journey.pack()
    tell(journey, client_shuts)
    journey.unpack(parcels, 1)
    journey.settle()
    assert journey.server.has_ended
    assert all(place.is_empty() for place in journey.places)


def test_a_client_that_resets_meanwhile_is_noticed(journey: Journey) -> None:
    tell(journey, asks(GET))
    parcels = journey.pack()
    reset(journey.client.sock.dup())
    journey.client.has_ended = True
    journey.client.sock.close()
    journey.unpack(parcels, 1)
    journey.client = journey.connect()
    journey.settle()
    assert journey.servers[0].has_ended
    assert journey.totals().answered == {}


def test_a_kept_backend_that_closes_meanwhile_is_replaced_for_the_next_request(journey: Journey) -> None:
    tell(journey, asks(GET), answers(OK))
    parcels = journey.pack()
    tell(journey, server_closes)
    journey.unpack(parcels, 1)
    tell(journey, asks(POST), answers(OK))
    assert len(journey.servers) == 2
    assert journey.client.heard == OK + OK
    assert journey.place.service.retried == 0


def test_a_backend_that_dies_meanwhile_is_replaced_by_the_one_that_answers(journey: Journey) -> None:
    tell(journey, asks(GET))
    parcels = journey.pack()
    tell(journey, server_resets)
    journey.unpack(parcels, 1)
    journey.settle()
    tell(journey, answers(OK))
    assert journey.client.heard == OK
    assert journey.server.heard == GET
    assert [place.service.retried for place in journey.places] == [0, 1]


def test_a_request_that_waits_for_a_replica_to_come_back_avoids_the_one_that_failed_it(journey: Journey) -> None:
    tell(journey, pauses, asks(GET))
    (client,) = journey.place.clients
    client._search._tried.add(journey.place.service.endpoints[0])  # type: ignore[union-attr]
    (parcel,) = journey.pack()
    assert parcel.state["search"]["tried"] == [journey.listener.address]
    journey.unpack([parcel], 1)
    (client,) = journey.place.clients
    assert [each.address for each in client._search._tried] == [journey.listener.address]  # type: ignore[union-attr]
    tell(journey, goes_on, answers(OK))
    assert journey.client.heard == OK


# Another route, or another policy, where it arrives


def test_a_kept_connection_to_a_generation_that_is_no_longer_the_active_one_is_let_go(journey: Journey) -> None:
    tell(journey, asks(GET), answers(OK))
    parcels = journey.pack()
    journey.route(generation=2)
    journey.unpack(parcels, 1)
    journey.settle()
    assert journey.server.has_ended
    assert [place.service.migrated for place in journey.places] == [0, 1]
    tell(journey, asks(POST), answers(OK))
    assert journey.client.heard == OK + OK
    assert dict(journey.place.service.generations[2].requests) == {200: 1}


def test_a_request_in_flight_goes_on_with_its_generation_whatever_is_the_active_one(journey: Journey) -> None:
    tell(journey, asks(POST[:-2]))
    parcels = journey.pack()
    journey.route(generation=2)
    journey.unpack(parcels, 1)
    tell(journey, asks(POST[-2:]), answers(OK))
    assert (journey.client.heard, journey.server.heard) == (OK, POST)
    assert dict(journey.place.service.generations[1].requests) == {200: 1}
    assert journey.place.service.generations[1].members == set()
    assert [place.service.migrated for place in journey.places] == [0, 1]


def test_a_generation_that_is_not_known_is_made(journey: Journey) -> None:
    tell(journey, asks(POST))
    parcels = journey.pack()
    journey.route(generation=2)
    del journey.places[1].service.generations[1]
    journey.unpack(parcels, 1)
    tell(journey, answers(OK))
    assert dict(journey.place.service.generations[1].requests) == {200: 1}


def test_a_request_that_was_held_is_sent_where_nobody_is_held(journey: Journey) -> None:
    tell(journey, asks(GET), answers(OK), pauses, asks(POST))
    parcels = journey.pack()
    journey.route(places=(1,))
    journey.unpack(parcels, 1)
    tell(journey, answers(OK))
    assert journey.client.heard == OK + OK
    assert len(journey.servers) == 1, "the kept connection is as good as before"


def test_a_service_that_ends_lets_a_client_finish_and_closes_it_elsewhere(journey: Journey) -> None:
    tell(journey, asks(GET))
    journey.route(generation=0)
    journey.travel()
    tell(journey, answers(OK))
    assert b"Connection: close" in journey.client.heard
    assert journey.client.has_ended
    assert all(place.is_empty() for place in journey.places)


def test_a_service_that_ends_has_a_backend_for_whom_it_was_connecting_already(journey: Journey) -> None:
    tell(journey, pauses, asks(GET))
    (parcel,) = journey.pack()
    generation = journey.places[0].service.generation
    parcel.state["search"]["attempt"] = place_of(generation, generation.endpoint(journey.listener.address, 0))
    journey.route(generation=0)
    journey.unpack([parcel], 1)
    journey.settle()
    tell(journey, answers(OK))
    assert journey.client.heard.startswith(b"HTTP/1.1 200 ")
    assert dict(journey.place.service.generations[1].requests) == {200: 1}


# Time


def test_a_head_has_to_be_complete_by_the_same_time_as_before(journey: Journey) -> None:
    tell(journey, asks(GET[:-4]))
    (first,) = journey.pack()
    assert first.state["deadline"] == pytest.approx(journey.place.engine.now + HTTP.header_timeout, abs=5)
    journey.unpack([first], 1)
    tell(journey, asks(GET[-4:-2]))
    (second,) = journey.pack()
    assert second.state["deadline"] == first.state["deadline"]
    journey.unpack([second], 0)
    assert len(journey.place.engine._timers) == 1


def test_a_head_whose_time_ended_on_the_way_is_looked_at_once_more(journey: Journey) -> None:
    tell(journey, asks(GET[:-4]))
    (parcel,) = journey.pack()
    parcel.state["deadline"] = journey.place.engine.now - 10
    tell(journey, asks(GET[-4:]))
    journey.unpack([parcel], 1)
    journey.settle()
    tell(journey, answers(OK))
    assert journey.client.heard == OK


def test_a_client_that_is_silent_is_not_given_more_time() -> None:
    with Journey(idle_timeout=60.0) as journey:
        tell(journey, asks(GET), answers(OK))
        (parcel,) = journey.pack()
        last = parcel.state["last"]
        journey.unpack([parcel], 1)
        journey.settle()
        assert journey.place.clients[0].last == last
        assert journey.place.engine._timers.next == last + 60.0


# Who still holds what has left


def test_a_client_that_has_left_is_dead_to_whoever_still_holds_it(journey: Journey) -> None:
    tell(journey, asks(GET), answers(OK), asks(POST[:-2]))
    (client,) = journey.place.clients
    upstream = client.upstream
    assert upstream is not None
    client.enqueue()
    upstream.enqueue()
    parcels = journey.pack()
    assert journey.place.is_empty()
    journey.client.to_say, journey.server.to_say = POST[-2:], OK
    journey.settle()
    assert not journey.place.engine.ready
    assert journey.client.heard == OK
    journey.unpack(parcels, 1)
    journey.settle()
    assert (journey.client.heard, journey.server.heard) == (OK + OK, GET + POST)


# What makes no sense


def test_a_state_that_lacks_something_is_refused_before_anything_is_touched(journey: Journey) -> None:
    tell(journey, asks(POST[:-2]))
    (parcel,) = journey.pack()
    check(parcel)
    for name in ("state", "requests", "exchange", "upstream"):
        state = {key: value for key, value in parcel.state.items() if key != name}
        with pytest.raises(ValueError, match=name):
            check(carried_state(parcel, state))
    for name, value in (("state", "closed"), ("requests", {}), ("exchange", None), ("upstream", None)):
        with pytest.raises(ValueError):  # noqa: PT011
            check(carried_state(parcel, parcel.state | {name: value}))
    assert journey.places[1].is_empty()
    journey.unpack([parcel], 1)


def carried_state(parcel: Parcel, state: dict[str, Any]) -> Parcel:
    return Parcel(parcel.kind, parcel.service, state, parcel.sockets)


@pytest.mark.parametrize("name", ["pending", "last", "requests", "upstream", "exchange", "search", "deadline"])
def test_a_client_that_cannot_go_on_is_closed_and_nothing_is_left_of_it(journey: Journey, name: str) -> None:
    tell(journey, asks(POST[:-2]))
    if name == "search":
        tell(journey, pauses, answers(OK), asks(b"er" + GET))
    (parcel,) = journey.pack()
    parcel.state[name] = {"pending": "text", "last": None}.get(name, {})
    unpack(journey.places[1].service, parcel)
    journey.here = 1
    journey.settle()
    assert journey.client.has_ended
    assert journey.server.has_ended
    assert journey.places[1].service.refused == {"internal": 1}
    assert all(place.is_empty() for place in journey.places)
