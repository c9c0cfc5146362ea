"""What the service manager hears, on a real socket."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio import socket

from proxy.control.events import Bus
from proxy.control.notify import ServiceManager, summary
from proxy.kernel.sd_notify import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def service(state: str = "serving", active: str | None = "v1", connections: int = 0) -> dict[str, Any]:
    return {"state": state, "active": active, "generations": [{"connections": connections}]}


class World:
    """A service manager with a proxy of one service, which is not healthy yet."""

    def __init__(self, folder: Path, *, patience: float = 60, watchdog: float = 0) -> None:
        self.receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = str(folder / "notify")
        self.bus = Bus()
        self.reasons = ["web: no healthy active generation"]
        self.services = {"web": service("starting")}
        variables = {"NOTIFY_SOCKET": self.path}
        if watchdog:
            variables["WATCHDOG_USEC"] = str(int(watchdog * 1e6))
        self.notifier = Notifier(variables)
        self.manager = ServiceManager(self.notifier, self.bus, lambda: self.services, patience=patience)

    async def heard(self) -> dict[str, str]:
        """The next message."""
        with trio.fail_after(10):
            lines = (await self.receiver.recv(4096)).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    async def heard_of(self, name: str, value: str | None = None) -> dict[str, str]:
        """The next message with this assignment; others, of status and life, are passed over."""
        while True:
            message = await self.heard()
            if name in message and value in (None, message[name]):
                return message

    async def silent(self, *names: str, seconds: float = 0.1) -> None:
        """Nothing of these is said for a while."""
        with trio.move_on_after(seconds):
            while True:
                assert not set(names) & set(await self.heard())

    def becomes_healthy(self) -> None:
        self.reasons = []
        self.services["web"] = service()
        self.bus.publish("service", service="web", state="serving")


@contextmanager
def opened(world: World) -> Iterator[World]:
    with world.receiver:
        try:
            yield world
        finally:
            world.notifier.close()


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    with opened(World(tmp_path)) as world:
        await world.receiver.bind(world.path)
        yield world


async def test_ready_is_said_when_the_last_service_is_healthy_and_not_before(world: World, nursery) -> None:
    nursery.start_soon(world.manager.announce, lambda: world.reasons)
    await trio.testing.wait_all_tasks_blocked()
    world.bus.publish("service", service="other", state="serving")
    await world.silent("READY")
    world.becomes_healthy()
    assert await world.heard() == {"READY": "1", "MAINPID": str(os.getpid())}
    assert await world.heard() == {"STATUS": "web: v1 serving"}


async def test_a_service_that_never_gets_healthy_does_not_cost_the_others(tmp_path: Path, caplog) -> None:
    with opened(World(tmp_path, patience=0.05)) as world:
        await world.receiver.bind(world.path)
        await world.manager.announce(lambda: world.reasons)
        assert (await world.heard())["READY"] == "1"
        assert await world.heard() == {"STATUS": "web: v1 starting"}
        assert caplog.records[0].facts["reason"] == "web: no healthy active generation"


async def test_a_stop_that_comes_before_the_first_healthy_generation_is_not_announced_as_ready(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.manager.announce, lambda: ["the proxy is stopping"])
        await trio.testing.wait_all_tasks_blocked()
        world.manager.stopping()
        world.bus.publish("stop")
    assert (await world.heard())["STOPPING"] == "1"
    await world.silent("READY")


async def test_the_end_of_all_events_ends_the_waiting(world: World) -> None:
    world.bus.close()
    await world.manager.announce(lambda: ["the proxy is stopping"])
    await world.silent("READY")


async def test_a_reload_is_bracketed_also_when_it_fails(world: World) -> None:
    world.manager.ready()
    await world.heard_of("STATUS")
    before = time.monotonic_ns() // 1000

    async def fail() -> None:
        with world.manager.reloading():
            message = await world.heard()
            assert message["RELOADING"] == "1"
            assert before <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            with world.manager.reloading():
                pass
            await world.silent("READY")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await fail()
    assert await world.heard() == {"READY": "1"}


async def test_a_reload_before_the_start_is_over_does_not_end_the_start(world: World) -> None:
    with world.manager.reloading():
        pass
    await world.silent("READY", "RELOADING")


async def test_a_reload_that_the_end_overtakes_does_not_call_it_off(world: World) -> None:
    world.manager.ready()
    await world.heard_of("STATUS")
    with world.manager.reloading():
        assert "RELOADING" in await world.heard()
        world.manager.stopping()
    assert (await world.heard())["STOPPING"] == "1"
    world.manager.stopping()
    await world.silent("READY", "STOPPING")


async def test_more_time_is_asked_for_while_it_starts_and_while_it_stops(world: World, nursery, autojump_clock) -> None:
    heard: list[str] = []

    async def listen() -> None:
        while True:
            message = (await world.receiver.recv(4096)).decode()
            heard.extend(line for line in message.splitlines() if not line.startswith(("STATUS", "MAINPID")))

    nursery.start_soon(listen)
    nursery.start_soon(world.manager.run)
    await trio.sleep(15)
    assert heard == ["EXTEND_TIMEOUT_USEC=30000000"] * 2
    world.manager.ready()
    await trio.sleep(60)
    assert heard[2:] == ["READY=1"]
    world.manager.stopping()
    await trio.sleep(25)
    assert heard[3] == "STOPPING=1"
    assert len(heard) >= 3 + 1 + 3
    assert set(heard[4:]) == {"EXTEND_TIMEOUT_USEC=30000000"}
    nursery.cancel_scope.cancel()


async def test_a_start_that_does_not_come_to_its_end_gets_no_more_time_for_ever(
    world: World, nursery, autojump_clock
) -> None:
    asked = []

    async def listen() -> None:
        while True:
            asked.append(await world.receiver.recv(4096))

    nursery.start_soon(listen)
    nursery.start_soon(world.manager.run)
    await trio.sleep(300)
    assert sum(message.startswith(b"EXTEND") for message in asked) == 6  # in 60 seconds of patience
    nursery.cancel_scope.cancel()


async def test_signs_of_life_come_twice_as_often_as_is_asked_for(tmp_path: Path, autojump_clock) -> None:
    with opened(World(tmp_path, watchdog=2.0)) as world:
        await world.receiver.bind(world.path)
        world.manager.ready()
        seen: list[float] = []
        with trio.move_on_after(10.5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.manager.run)
                while True:
                    if await world.receiver.recv(4096) == b"WATCHDOG=1":
                        seen.append(trio.current_time())
        assert len(seen) == 11
        gaps = [later - earlier for earlier, later in pairwise(seen)]
        assert max(gaps) == pytest.approx(1.0)


async def test_the_status_line_follows_what_happens_and_is_not_repeated(world: World, nursery) -> None:
    nursery.start_soon(world.manager.run)
    assert (await world.heard_of("STATUS"))["STATUS"] == "web: v1 starting"
    world.services["web"] = service(connections=120, active="v2")
    for _ in range(2000):  # more than a subscriber may leave unread
        world.bus.publish("service")
    assert (await world.heard_of("STATUS"))["STATUS"] == "web: v2 serving, 120 connections"
    await world.silent("STATUS", seconds=1.2)
    nursery.cancel_scope.cancel()


async def test_what_a_busy_manager_had_no_room_for_is_said_again(world: World, nursery) -> None:
    while world.notifier.send(WATCHDOG=1):
        pass
    world.manager.ready()
    while True:
        message = await world.heard()
        if message != {"WATCHDOG": "1"}:
            break
        world.manager.status("web: v1 serving")  # whatever is said next brings it
        world.manager.status("")
    assert message == {"READY": "1", "MAINPID": str(os.getpid())}


async def test_without_a_manager_all_of_it_is_nothing() -> None:
    bus = Bus()
    manager = ServiceManager(Notifier(), bus, lambda: pytest.fail("nobody asks"), patience=60)
    with trio.fail_after(5):
        await manager.run()
        await manager.announce(list)
        with manager.reloading():
            pass
        manager.stopping()


async def test_as_process_1_of_a_container_no_number_is_named(world: World, monkeypatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    world.manager.ready()
    assert await world.heard() == {"READY": "1"}


async def test_another_main_process_can_be_named(world: World) -> None:
    world.manager.main_pid(4711)
    assert await world.heard() == {"MAINPID": "4711"}


def test_a_summary_names_every_service() -> None:
    services = {"web": service(connections=120), "api": service("down", None), "db": service("paused", connections=1)}
    assert summary(services) == "web: v1 serving, 120 connections; api: down; db: v1 paused, 1 connection"


def test_a_summary_that_would_be_too_long_begins_with_what_needs_looking_at() -> None:
    services = {f"service-{number}": service() for number in range(100)} | {"broken": service("down")}
    line = summary(services)
    assert len(line) < 450
    assert line.startswith("broken: v1 down; service-0: v1 serving; ")
    shown = line.count(": ")
    assert line.endswith(f"; and {101 - shown} more")
