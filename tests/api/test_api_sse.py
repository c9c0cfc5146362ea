"""The event stream: nothing is missed, nobody waits for a slow reader, silence is not taken for death."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import trio

from proxy.api import sse

if TYPE_CHECKING:
    from tests.ask import Api, Exchange
    from tests.fakes import FakeControl


async def events(exchange: Exchange, count: int) -> list[dict[str, Any]]:
    text = ""
    with trio.fail_after(5):
        while text.count("\n\n") < count:
            text += (await exchange.piece()).decode()
    return [json.loads(frame.partition("data: ")[2]) for frame in text.split("\n\n")[:-1]]


def test_a_frame_is_what_browsers_parse() -> None:
    frame = sse.encode({"type": "phase", "phase": "start", "text": "a\nb"})
    assert frame == b'event: phase\ndata: {"type":"phase","phase":"start","text":"a\\nb"}\n\n'


async def test_whoever_has_seen_the_head_misses_nothing(api: Api, control: FakeControl) -> None:
    async with api.open("/v1/events") as (answer, exchange):
        assert answer.headers["content-type"].startswith("text/event-stream")
        await api.post("/v1/services/web/swap", {"version": "v2"})
        (event,) = await events(exchange, 1)
    assert (event["type"], event["operation"], event["result"]["to"]) == ("result", 1, "v2")


async def test_events_come_in_order_and_all_of_them(api: Api, control: FakeControl) -> None:
    async with api.open("/v1/events") as (_, exchange):
        for number in range(500):
            control.publish("health", number=number)
        received = await events(exchange, 500)
    assert [event["number"] for event in received] == list(range(500))


async def test_a_reader_that_falls_behind_sees_its_stream_end(api: Api, control: FakeControl) -> None:
    control.backlog = 3
    async with api.open("/v1/events") as (_, exchange):
        for number in range(10):
            control.publish("health", number=number)
        received = (await exchange.rest()).decode()
    assert 3 <= received.count("data:") < 10
    assert (await api.get("/livez")).status == 200


async def test_a_client_that_leaves_is_forgotten(api: Api, control: FakeControl) -> None:
    async with api.open("/v1/events"):
        assert len(control.readers) == 1
    with trio.fail_after(5):
        await control.reader_left.wait()
    assert control.readers == set()


async def test_a_quiet_stream_shows_that_it_lives(
    api: Api, control: FakeControl, autojump_clock: trio.testing.MockClock
) -> None:
    async with api.open("/v1/events") as (_, exchange):
        began = trio.current_time()
        assert await exchange.piece() == b":\n\n"
        assert trio.current_time() - began == sse.HEARTBEAT
        control.publish("health")
        assert b"event: health" in await exchange.piece()


async def test_the_stream_ends_when_control_closes_it(api: Api, control: FakeControl) -> None:
    async with api.open("/v1/events") as (_, exchange):
        control.publish("stop")
        control.drop_readers()
        assert b"event: stop" in await exchange.rest()
