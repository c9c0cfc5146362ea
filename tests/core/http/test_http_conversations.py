"""The corpus, each conversation delivered in every way a network may choose: whole, in two, in bytes, at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.http import body
from proxy.core.http.head import HeadError
from proxy.core.http.messages import Requests, Responses
from tests.core.http.conversations import foreign, limits, requests, responses, smuggling
from tests.core.http.conversations.conversation import (
    CHUNKED,
    FOREIGN,
    LENGTH,
    NONE,
    TUNNEL,
    UNTIL_CLOSE,
    WAITING,
    Conversation,
    Side,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ALL = [
    *requests.CONVERSATIONS,
    *responses.CONVERSATIONS,
    *foreign.CONVERSATIONS,
    *limits.CONVERSATIONS,
    *smuggling.CONVERSATIONS,
]
SMALL = [
    conversation for conversation in ALL if max(map(len, (conversation.client.wire, conversation.backend.wire))) < 5000
]
KINDS = {body.Nothing: NONE, body.Length: LENGTH, body.Chunked: CHUNKED, body.UntilClose: UNTIL_CLOSE}


@dataclass
class Cut:
    """What became of a stream: its messages (first line, head, body, kind), and what the rest of it is."""

    messages: list[tuple[bytes, bytes, str]]
    end: str | int


def cut(  # noqa: C901  # one loop, read from top to bottom
    reader: Requests | Responses, pieces: Iterable[bytes], *, methods: Sequence[str] = (), tunnel: int = -1
) -> Cut:
    """Feed a side's bytes as the relay would, and check that none is taken twice or left behind.

    `tunnel`: the number of messages after which the rest is not HTTP any more.
    """
    done = Cut([], WAITING)
    expected = list(methods)
    if isinstance(reader, Responses) and expected:
        reader.expect(expected[0])
    content = b""  # of the body of the present message
    for piece in pieces:
        data = memoryview(piece)
        while data and len(done.messages) != tunnel:
            has_head = reader.head is not None
            try:
                taken = reader.take(data)
            except HeadError as error:
                done.end = error.status
                return done
            assert 0 <= taken <= len(data)
            if isinstance(reader, Requests) and reader.is_foreign:
                done.end = FOREIGN
                return done
            if has_head:
                content += data[:taken]
            elif reader.head is None:
                assert taken == len(data), "bytes behind an incomplete head are lost"
            data = data[taken:]
            assert not (has_head and data and not reader.is_complete), "stuck"
            if reader.is_complete:
                assert reader.head is not None
                done.messages.append((reader.head.raw, content, KINDS[type(reader.body)]))
                content = b""
                if isinstance(reader, Responses):
                    if not reader.head.is_interim and len(expected) > 1:
                        expected.pop(0)
                    reader.expect(expected[0])
                else:
                    reader.next()
    if len(done.messages) == tunnel:
        done.end = TUNNEL
    return done


def expected_of(side: Side) -> Cut:
    return Cut([(message.head, message.body, message.kind) for message in side.messages], side.end)


def check(conversation: Conversation, deliver: object) -> None:
    methods = conversation.methods or [message.head.split()[0].decode() for message in conversation.client.messages]
    for side, reader in ((conversation.client, Requests()), (conversation.backend, Responses())):
        tunnel = len(side.messages) if side.end == TUNNEL else -1
        if side.wire:
            pieces = deliver(side.wire)  # type: ignore[operator]
            found = cut(reader, pieces, methods=methods, tunnel=tunnel)
            assert found == expected_of(side), f"in pieces of {[len(piece) for piece in pieces][:50]}"


def in_two(at: int) -> object:
    return lambda wire: [wire[:at], wire[at:]]


def in_pieces_of(size: int) -> object:
    return lambda wire: [wire[start : start + size] for start in range(0, len(wire), size)]


def test_the_corpus_is_large_and_each_conversation_has_a_name_of_its_own() -> None:
    assert len(ALL) >= 160
    assert len({conversation.name for conversation in ALL}) == len(ALL)


@pytest.mark.parametrize("conversation", ALL, ids=lambda conversation: conversation.name)
def test_a_conversation_that_comes_in_one_piece_is_understood(conversation: Conversation) -> None:
    check(conversation, in_pieces_of(1 << 20))


@pytest.mark.parametrize("conversation", ALL, ids=lambda conversation: conversation.name)
def test_a_conversation_that_the_network_cuts_in_two_is_understood_the_same(conversation: Conversation) -> None:
    size = max(len(conversation.client.wire), len(conversation.backend.wire))
    limit = 64 * 1024
    places = (
        range(size) if size < 5000 else sorted({1, 2, 60, 1023, 1024, 1025, *range(limit - 3, limit + 4), size - 1})
    )
    for at in places:
        check(conversation, in_two(at))


@pytest.mark.parametrize("conversation", ALL, ids=lambda conversation: conversation.name)
def test_a_conversation_that_comes_byte_by_byte_is_understood_the_same(conversation: Conversation) -> None:
    is_small = max(len(conversation.client.wire), len(conversation.backend.wire)) < 5000
    check(conversation, in_pieces_of(1 if is_small else 1009))


@pytest.mark.parametrize("conversation", limits.CONVERSATIONS, ids=lambda conversation: conversation.name)
def test_a_limit_is_the_same_however_a_buffer_is_filled(conversation: Conversation) -> None:
    for size in (128 * 1024, 64 * 1024, 64 * 1024 - 1, 64 * 1024 + 1, 1460):
        check(conversation, in_pieces_of(size))


@given(st.sampled_from(SMALL), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_a_conversation_in_random_pieces_is_understood_the_same(conversation: Conversation, sizes: list[int]) -> None:
    def deliver(wire: bytes) -> list[bytes]:
        pieces, start = [], 0
        while start < len(wire):
            size = sizes[len(pieces) % len(sizes)]
            pieces.append(wire[start : start + size])
            start += size
        return pieces

    check(conversation, deliver)


@pytest.mark.parametrize("conversation", foreign.CONVERSATIONS, ids=lambda conversation: conversation.name)
def test_of_what_is_not_http_every_byte_is_passed_on(conversation: Conversation) -> None:
    wire = conversation.client.wire
    for size in (1, 2, 7, 1 << 20):
        if conversation.client.end != FOREIGN or (size == 1 and len(wire) > 5000):
            continue
        reader, start = Requests(), 0
        while not reader.is_foreign:
            assert start < len(wire)
            piece = wire[start : start + size]
            before, taken = start, reader.take(memoryview(piece))
            start += taken if reader.is_foreign else len(piece)
        assert reader.begun + wire[before + taken :] == wire


@pytest.mark.parametrize("conversation", smuggling.CONVERSATIONS, ids=lambda conversation: conversation.name)
def test_of_what_is_refused_no_backend_sees_a_whole_request(conversation: Conversation) -> None:
    """What is taken of a refused message never holds its end: a backend that gets it waits, until it is closed."""
    if conversation.client.end != 400:
        return
    for size in (1, 1 << 20):
        reader, sent = Requests(), b""
        data = conversation.client.rest
        reader._is_first = False
        with pytest.raises(HeadError):  # noqa: PT012  # at whichever piece
            for start in range(0, len(data), size):
                piece = memoryview(data[start : start + size])
                while piece:
                    taken = reader.take(piece)
                    assert not reader.is_complete
                    sent += piece[:taken] if reader.head else b""
                    piece = piece[taken:]
        content = sent.partition(b"\r\n\r\n")[2] if size > 1 else sent.lstrip(b"\n")
        assert b"\n\n" not in content
        assert b"\r\n\r\n" not in content
