"""One look at the proxy for everybody who watches: what happens, and what has changed, written once and sent to all.

A hundred open pages are a hundred sockets to write to, and nothing else.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from proxy.api.sse import encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxy.api.protocol import Control

Json = dict[str, Any]

log = logging.getLogger(__name__)

TICK = 1.0  # seconds between two looks while somebody watches: connections come and go without an event
BEAT = 5.0  # seconds after which a watcher hears from us, with or without news
SAMPLE = 2.0  # seconds between two samples of how many connections there are
KEEP = 150  # samples: the last five minutes
_GATHER = 0.1  # seconds that events are gathered for, so that many of them are one write
_SHARE = 0.1  # of the time may be spent on looking, however much happens
_BACKLOG = 64  # writes that a watcher may be behind before its stream ends; it can begin anew
_STEP = 1.0  # seconds that the clock has to be set by until the proxy began at another time
_OFTEN = ("drain",)  # events of which only the last one of each generation is of interest


class Live:
    """`watch` gives the stream that the page is made of, and `run` writes it for all who watch. It takes samples with
    nobody there too, if it `samples`, so that a page which is opened knows the last minutes.
    """

    def __init__(self, control: Control, *, samples: bool) -> None:
        self._control = control
        self._samples = samples
        self._status: Json = {}  # as those who watch know it; empty while nobody does
        self._taken: deque[tuple[float, dict[str, dict[int, int]]]] = deque(maxlen=KEEP)
        self._watchers: set[trio.MemorySendChannel[bytes]] = set()
        self._somebody = trio.Event()
        self._since = 0.0  # when the proxy began, in Unix time

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            if self._samples:
                nursery.start_soon(self._take_samples)
            while True:
                await self._somebody.wait()
                try:
                    with self._control.events() as events:
                        await self._write(events)
                except trio.EndOfChannel:  # it stops, or we fell behind
                    pass
                except Exception:
                    log.exception("the page cannot be told what runs")
                self._let_go()  # who watches may begin anew
                self._status, self._somebody = {}, trio.Event()

    @contextmanager
    def watch(self) -> Iterator[trio.MemoryReceiveChannel[bytes]]:
        """Frames of an event stream, from a whole status on; it ends when the proxy stops or the reader is too slow."""
        send, receive = trio.open_memory_channel[bytes](_BACKLOG)
        self._watchers.add(send)
        self._somebody.set()
        if self._status:
            send.send_nowait(self._whole())
        try:
            with receive:
                yield receive
        finally:
            self._watchers.discard(send)
            send.close()

    async def _write(self, events: trio.MemoryReceiveChannel[Json]) -> None:
        """Look and tell for as long as somebody watches. Raises EndOfChannel when `events` end."""
        self._status = await self._look()
        self._send(self._whole())
        pause, spoke = _GATHER, trio.current_time()
        while self._watchers:
            happened: list[Json] = []
            with trio.move_on_after(TICK):
                happened.append(await events.receive())
            if happened:
                await trio.sleep(pause)
                happened += _waiting(events)
            began = time.thread_time()
            news = self._news(await self._look())
            pause = max(_GATHER, (time.thread_time() - began) / _SHARE)
            if happened or len(news) > 1 or trio.current_time() - spoke >= BEAT:
                self._send(encode(*_worth_telling(happened), {"type": "status", **news}))
                spoke = trio.current_time()

    async def _look(self) -> Json:
        status = await self._control.status()
        # Its age changes by itself; whoever watches has a clock.
        proxy = {name: value for name, value in status["proxy"].items() if name != "uptime"}
        since = time.time() - status["proxy"]["uptime"]
        if abs(since - self._since) > _STEP:
            self._since = round(since, 3)
        self._sample(status)
        return {"proxy": {**proxy, "since": self._since}, "services": status["services"]}

    def _news(self, status: Json) -> Json:
        """What is new in a status; always when that is."""
        before, self._status = self._status, status
        services = {
            name: service for name, service in status["services"].items() if service != before["services"].get(name)
        }
        gone = [name for name in before["services"] if name not in status["services"]]
        news: Json = {"time": round(time.time(), 3)}
        if status["proxy"] != before["proxy"]:
            news["proxy"] = status["proxy"]
        if services:
            news["services"] = services
        if gone:
            news["gone"] = gone
        return news

    def _whole(self) -> bytes:
        whole = {"type": "status", "time": round(time.time(), 3), "whole": True, "samples": self._described()}
        return encode({**whole, **self._status})

    def _send(self, frame: bytes) -> None:
        for watcher in tuple(self._watchers):
            try:
                watcher.send_nowait(frame)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._watchers.discard(watcher)
                watcher.close()

    def _let_go(self) -> None:
        while self._watchers:
            self._watchers.pop().close()

    # Samples.

    async def _take_samples(self) -> None:
        while True:
            if not self._watchers:  # otherwise there are looks enough
                try:
                    await self._look()
                except Exception:
                    log.exception("connections cannot be sampled")
            await trio.sleep(SAMPLE)

    def _sample(self, status: Json) -> None:
        now = time.time()
        if self._taken and 0 <= now - self._taken[-1][0] < SAMPLE * 0.9:
            return
        counts = {
            name: {each["id"]: each["connections"] for each in service["generations"]}
            for name, service in status["services"].items()
        }
        self._taken.append((now, counts))

    def _described(self) -> Json:
        """`times` (Unix), and for each service and generation its connections at these times; null before and after."""
        services: dict[str, dict[str, list[int | None]]] = {}
        for index, (_, counts) in enumerate(self._taken):
            for name, generations in counts.items():
                for number, connections in generations.items():
                    row = services.setdefault(name, {}).setdefault(str(number), [None] * len(self._taken))
                    row[index] = connections
        return {"times": [round(when, 1) for when, _ in self._taken], "services": services}


def _waiting(events: trio.MemoryReceiveChannel[Json]) -> list[Json]:
    found: list[Json] = []
    try:
        while True:
            found.append(events.receive_nowait())
    except (trio.WouldBlock, trio.EndOfChannel):  # the end comes again with the next call
        return found


def _worth_telling(events: Iterable[Json]) -> Iterator[Json]:
    last = {
        (event["type"], event.get("service"), event.get("generation")): event
        for event in events
        if event["type"] in _OFTEN
    }
    kept = {id(event) for event in last.values()}
    return (event for event in events if event["type"] not in _OFTEN or id(event) in kept)
