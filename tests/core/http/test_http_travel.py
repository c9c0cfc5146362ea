"""A conversation that goes on in another process, after any of its bytes, is understood as if it had stayed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.http import body
from proxy.core.http.head import HeadError, parse_request
from proxy.core.http.messages import Requests, Responses
from tests.core.http.conversations.conversation import TUNNEL, Conversation
from tests.core.http.test_http_conversations import ALL, SMALL, cut, expected_of
from tests.states import through_json


def move(reader: Requests | Responses) -> None:
    """Let a reader go on where another one of its kind would, in another process."""
    kind = Requests if isinstance(reader, Requests) else Responses
    other = kind()
    other.restore(through_json(reader.state()))
    for name in kind.__slots__:
        setattr(reader, name, getattr(other, name))


class TravellingRequests(Requests):
    """In another process before and after each piece."""

    def take(self, data: memoryview) -> int:
        move(self)
        taken = super().take(data)
        move(self)
        return taken


class TravellingResponses(Responses):
    def take(self, data: memoryview) -> int:
        move(self)
        taken = super().take(data)
        move(self)
        return taken


def check(conversation: Conversation, *places: int) -> None:
    """Deliver a conversation in pieces that end at these places, the readers travelling between them."""
    methods = conversation.methods or [message.head.split()[0].decode() for message in conversation.client.messages]
    for side, kind in ((conversation.client, TravellingRequests), (conversation.backend, TravellingResponses)):
        tunnel = len(side.messages) if side.end == TUNNEL else -1
        if side.wire:
            cuts = [0, *(place for place in places if place < len(side.wire)), len(side.wire)]
            pieces = [side.wire[start:end] for start, end in itertools.pairwise(cuts)]
            assert cut(kind(), pieces, methods=methods, tunnel=tunnel) == expected_of(side), f"cut at {places[:50]}"


def longest(conversation: Conversation) -> int:
    return max(len(conversation.client.wire), len(conversation.backend.wire))


@pytest.mark.parametrize("conversation", SMALL, ids=lambda conversation: conversation.name)
def test_a_conversation_that_travels_after_any_of_its_bytes_is_understood_the_same(conversation: Conversation) -> None:
    for place in range(1, longest(conversation)):
        check(conversation, place)


@pytest.mark.parametrize("conversation", SMALL, ids=lambda conversation: conversation.name)
def test_a_conversation_that_travels_after_each_byte_is_understood_the_same(conversation: Conversation) -> None:
    check(conversation, *range(1, longest(conversation)))


@pytest.mark.parametrize(
    "conversation", [each for each in ALL if each not in SMALL], ids=lambda conversation: conversation.name
)
def test_a_long_conversation_that_travels_is_understood_the_same(conversation: Conversation) -> None:
    size = longest(conversation)
    check(conversation, *range(1009, size, 1009))
    for place in (1, 60, 1024, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, size - 1):
        check(conversation, place)


@given(st.sampled_from(SMALL), st.sets(st.integers(1, 4000), max_size=30))
def test_a_conversation_that_travels_at_random_is_understood_the_same(
    conversation: Conversation, places: set[int]
) -> None:
    check(conversation, *sorted(places))


def test_a_request_that_somebody_else_has_read_travels_too() -> None:
    requests = Requests()
    requests.came_whole(parse_request(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"))
    other = Requests()
    other.restore(through_json(requests.state()))
    assert other.is_complete
    assert other.head is not None
    assert other.head.length == 5
    other.next()
    assert other.take(memoryview(b"GET / HT")) == 8
    assert not other.is_foreign


def test_a_body_of_a_kind_that_is_not_known_is_refused_and_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="not a kind of body: 'tail'"):
        body.restored({"kind": "tail"})


@pytest.mark.parametrize(
    "state",
    [
        {"kind": "length", "left": -1},
        {"kind": "length", "left": "5"},
        {"kind": "length"},
        {"kind": "chunked", "left": 0, "next": "nowhere", "begun": b"", "is_done": False},
        {"kind": "chunked", "left": 0, "next": "size", "begun": "", "is_done": False},
    ],
    ids=str,
)
def test_a_state_that_makes_no_sense_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError)):
        body.restored(state)


def test_a_head_that_could_not_be_read_here_is_refused() -> None:
    state = Requests().state() | {"head": b"GET / HTTP/2.0\r\n\r\n"}
    with pytest.raises(HeadError):
        Requests().restore(state)
