"""The event stream as the command line reads it: whatever way the bytes come, and however it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.sse import encode
from proxy.cli import events
from proxy.cli.client import Client
from proxy.cli.events import Events, Parser, StreamEndedError
from proxy.cli.where import Where
from proxy.errors import NotRunningError

if TYPE_CHECKING:
    from tests.cli.conftest import FakeProxy

EVENT = st.fixed_dictionaries({"type": st.sampled_from(["phase", "drain"]), "text": st.text()})


@given(st.lists(EVENT, max_size=5), st.integers(1, 40))
def test_events_come_out_as_they_went_in(sent: list[dict[str, str]], size: int) -> None:
    content = b":\n\n".join(encode(event) for event in sent)
    parser, received = Parser(), []
    for start in range(0, len(content), size):
        received += parser.feed(content[start : start + size])
    assert received == sent


def test_nothing_is_missed_between_opening_and_reading(proxy: FakeProxy) -> None:
    with Events(Client(Where(proxy.socket, ""))) as stream:
        for number in range(300):
            proxy.do(lambda number=number: proxy.control.publish("health", number=number))
        received: list[int] = []
        while len(received) < 300:
            received += [event["number"] for event in stream.wait(5)]
    assert received == list(range(300))


def test_waiting_ends_in_time_without_events(proxy: FakeProxy) -> None:
    with Events(Client(Where(proxy.socket, ""))) as stream:
        began = time.monotonic()
        assert stream.wait(0.02) == []
        assert stream.wait(0.02) == []
        assert time.monotonic() - began < 5


def test_an_ended_stream_can_be_opened_again(proxy: FakeProxy) -> None:
    client = Client(Where(proxy.socket, ""))
    with Events(client) as stream:
        proxy.do(proxy.control.drop_readers)
        with pytest.raises(StreamEndedError):
            read_all(stream)
        stream.reopen(client)
        proxy.do(lambda: proxy.control.publish("health"))
        received: list[object] = []
        while not received:
            received += stream.wait(5)
        proxy.end()
        with pytest.raises(StreamEndedError):
            read_all(stream)
        with pytest.raises(NotRunningError):
            stream.reopen(client)


def read_all(stream: Events) -> None:
    while True:
        stream.wait(0.1)


def test_a_silent_stream_is_a_dead_one(proxy: FakeProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SILENCE", 0.0)
    with Events(Client(Where(proxy.socket, ""))) as stream, pytest.raises(StreamEndedError):
        read_all(stream)
