"""What open pages are told: all of it at first, then what changes, and never at the cost of the proxy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio

from proxy.api import live
from proxy.api.live import BEAT, SAMPLE, TICK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.ask import Api, Exchange
    from tests.fakes import FakeControl

Json = dict[str, Any]
LIVE = "/v1/events?status=true"


class Page:
    """One that is open: its events, in order."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._text = ""

    async def next(self) -> Json:
        with trio.fail_after(60):
            while "\n\n" not in self._text:
                self._text += (await self._exchange.piece()).decode()
        frame, _, self._text = self._text.partition("\n\n")
        event, _, data = frame.partition("\ndata: ")
        if not data:
            return await self.next()  # the interval for browsers
        found: Json = json.loads(data)
        assert event == f"event: {found['type']}"
        return found

    async def until(self, **values: Any) -> Json:
        while not values.items() <= (event := await self.next()).items():
            pass
        return event


@pytest.fixture(autouse=True)
def counted(control: FakeControl) -> list[float]:
    """When somebody looked at control."""
    looks: list[float] = []
    status = control.status

    async def looked() -> Json:
        looks.append(trio.current_time())
        control.state["proxy"]["uptime"] = live.time.time() - 1_789_000_000
        return json.loads(json.dumps(await status()))  # type: ignore[no-any-return]

    control.status = looked  # type: ignore[method-assign]
    return looks


@pytest.fixture
async def page(api: Api) -> AsyncIterator[Page]:
    async with api.open(LIVE) as (answer, exchange):
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Page(exchange)


async def test_a_page_begins_with_all_that_runs(
    page: Page, control: FakeControl, autojump_clock: trio.testing.MockClock
) -> None:
    first = await page.next()
    assert (first["type"], first["whole"]) == ("status", True)
    assert first["services"] == control.state["services"]
    assert first["proxy"].keys() == control.state["proxy"].keys() - {"uptime"} | {"since"}
    assert first["samples"]["services"]["web"]["1"][-1] == 10


async def test_then_only_what_has_changed_is_told(
    page: Page, control: FakeControl, autojump_clock: trio.testing.MockClock
) -> None:
    await page.next()
    control.state["services"]["db"] = json.loads(json.dumps(control.state["services"]["web"]))
    assert (await page.next())["services"].keys() == {"db"}
    control.state["services"]["web"]["generations"][0]["connections"] = 11
    news = await page.next()
    assert news["services"]["web"]["generations"][0]["connections"] == 11
    assert not news.keys() & {"proxy", "gone", "whole"}
    del control.state["services"]["db"]
    assert (await page.next())["gone"] == ["db"]
    control.state["proxy"]["stopping"] = True
    assert (await page.next()).keys() == {"type", "time", "proxy"}


async def test_what_happens_comes_at_once_with_what_it_has_changed(
    page: Page, control: FakeControl, autojump_clock: trio.testing.MockClock
) -> None:
    await page.next()
    began = trio.current_time()
    control.state["services"]["web"]["state"] = "swapping"
    control.publish("phase", service="web", operation=1, phase="start", state="begin")
    assert (await page.next())["phase"] == "start"
    assert (await page.next())["services"]["web"]["state"] == "swapping"
    assert trio.current_time() - began < TICK / 2


async def test_a_quiet_proxy_shows_that_it_lives(page: Page, autojump_clock: trio.testing.MockClock) -> None:
    await page.next()
    began = trio.current_time()
    assert (await page.next()).keys() == {"type", "time"}
    assert trio.current_time() - began == pytest.approx(BEAT, abs=TICK)


async def test_a_drain_of_thousands_is_one_event_now_and_then(
    page: Page, control: FakeControl, autojump_clock: trio.testing.MockClock
) -> None:
    await page.next()
    for remaining in reversed(range(900)):
        control.publish("drain", service="web", generation=1, remaining=remaining)
        control.publish("health", number=remaining) if remaining % 100 == 0 else None
    told = [await page.next() for _ in range(10)]
    assert [event["remaining"] for event in told if event["type"] == "drain"] == [0]
    assert [event["number"] for event in told if event["type"] == "health"] == list(range(800, -1, -100))


async def test_a_hundred_pages_are_one_look_at_the_proxy(
    api: Api, control: FakeControl, counted: list[float], nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    seen: list[int] = []

    async def look_on(number: int, task_status: trio.TaskStatus[None]) -> None:
        async with api.over_tcp().open(LIVE) as (_, exchange):
            page = Page(exchange)
            await page.next()
            task_status.started()
            await page.until(type="health", number=1)
            seen.append(number)

    for number in range(100):
        await nursery.start(look_on, number)
    before = len(counted)
    control.publish("health", number=1)
    with trio.fail_after(30):
        while len(seen) < 100:
            await trio.sleep(0.1)
    assert len(counted) - before <= 2


async def test_nobody_there_is_nothing_to_do_but_a_sample(
    api: Api, control: FakeControl, counted: list[float], autojump_clock: trio.testing.MockClock
) -> None:
    async with api.open(LIVE) as (_, exchange):
        await Page(exchange).next()
    await control.reader_left.wait()
    before = len(counted)
    await trio.sleep(10 * SAMPLE)
    assert 8 <= len(counted) - before <= 12
    assert control.readers == set()


async def test_a_page_that_is_opened_knows_the_last_minutes(
    api: Api, control: FakeControl, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.time, "time", lambda: 1_800_000_000.0 + trio.current_time())
    (generation,) = control.state["services"]["web"]["generations"]
    await trio.sleep(2.5 * SAMPLE)
    generation["connections"] = 4
    await trio.sleep(SAMPLE)
    control.state["services"]["web"]["generations"] = [{**generation, "id": 2, "connections": 7}]
    await trio.sleep(SAMPLE)
    async with api.open(LIVE) as (_, exchange):
        samples = (await Page(exchange).next())["samples"]
    rows = samples["services"]["web"]
    assert len(samples["times"]) == len(rows["1"]) == len(rows["2"])
    assert [count for count in rows["1"] if count is not None][-1] == 4
    assert (rows["1"][-1], rows["2"][-1], rows["2"][0]) == (None, 7, None)
    await trio.sleep(live.KEEP * SAMPLE * 2)
    async with api.open(LIVE) as (_, exchange):
        samples = (await Page(exchange).next())["samples"]
    assert samples["services"]["web"].keys() == {"2"}
    assert len(samples["times"]) <= live.KEEP


async def test_a_page_that_does_not_read_is_let_go_and_holds_nobody_up(
    api: Api, control: FakeControl, autojump_clock: trio.testing.MockClock
) -> None:
    async with api.open(LIVE) as (_, idle), api.open(LIVE) as (_, other):
        page = Page(other)
        await page.next()
        for number in range(200):
            control.publish("health", number=number, text="x" * 100_000)
            await page.until(type="health", number=number)
        with pytest.raises((EOFError, AssertionError)):
            await _read_to_the_end(idle)


async def _read_to_the_end(exchange: Exchange) -> None:
    while await exchange.piece():
        pass
    raise EOFError


async def test_trouble_with_a_look_ends_the_streams_and_not_the_server(
    api: Api, control: FakeControl, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async with api.open(LIVE) as (_, exchange):
        await Page(exchange).next()
        control.problem = ZeroDivisionError("a bug")
        assert await exchange.rest() is not None
    assert "ZeroDivisionError: a bug" in caplog.text
    control.problem = None
    async with api.open(LIVE) as (_, exchange):
        assert (await Page(exchange).next())["whole"]


async def test_the_stream_ends_with_the_proxy(
    page: Page, control: FakeControl, shutdown: trio.Event, over: trio.Event
) -> None:
    await page.next()
    control.publish("stop")
    control.drop_readers()
    shutdown.set()
    with trio.fail_after(5):
        await over.wait()
