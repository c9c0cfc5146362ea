"""The server as a whole: what one client does must not reach another, and its end must not depend on any of them."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import h11
import pytest
import trio

from proxy.api import connection, server
from proxy.config import Admin
from proxy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.ask import Api
    from tests.fakes import FakeControl

CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 40
UPGRADE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: "


@pytest.fixture
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LIMIT", 2)


@pytest.mark.usefixtures("few_places")
@pytest.mark.parametrize("line", [b"POST /v1/nothing", b"GET /livez", b"GET /v1/status", b"GET /v1/events"])
async def test_a_body_that_nobody_reads_leaves_no_connection_behind(
    api: Api, control: FakeControl, line: bytes
) -> None:
    control.status = partial(_slow, control.status)  # type: ignore[method-assign]
    with trio.fail_after(5):
        for _ in range(4):
            async with await api.connect() as stream:
                await stream.send_all(line + b" HTTP/1.1\r\nHost: localhost\r\n" + CHUNKS)
                assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 ")
        assert (await api.get("/livez")).status == 200


@pytest.mark.usefixtures("few_places")
async def test_more_clients_than_places_wait_their_turn(api: Api) -> None:
    async with api.open("/v1/events"):
        async with api.open("/v1/events"):
            with trio.move_on_after(0.05) as waited:
                await api.get("/livez")
            assert waited.cancelled_caught
        assert (await api.get("/livez")).status == 200


async def test_one_customer_with_many_ipv6_addresses_does_not_take_every_place(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [f"2001:db8:1:2::{number}" for number in range(1, 5)]
    peers = iter([*addresses, "2001:db8:9::1"])
    monkeypatch.setattr(connection, "_peer", lambda _stream: next(peers))
    monkeypatch.setattr(connection, "EACH", 2)
    monkeypatch.setattr(connection, "LIMIT", 3)
    streams = [await api.over_tcp().connect() for _ in addresses]
    with trio.fail_after(5):
        assert [await stream.receive_some() for stream in streams[2:]] == [b"", b""]
        assert (await api.over_tcp().get("/livez")).status == 200
    for stream in streams:
        await stream.aclose()


async def test_a_client_that_stops_reading_does_not_hold_up_the_end(
    api: Api, control: FakeControl, shutdown: trio.Event, over: trio.Event, autojump_clock: trio.testing.MockClock
) -> None:
    async with api.open("/v1/events"):
        for number in range(900):
            control.publish("health", service="web", reason="x" * 2000, number=number)
        await trio.testing.wait_all_tasks_blocked()  # its sends are stuck by now
        assert (await api.get("/livez")).status == 200
        shutdown.set()
        with trio.fail_after(server.GRACE + 1):
            await over.wait()


async def test_a_client_that_stops_reading_is_let_go_after_a_while(
    api: Api, control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL", 0.05)
    async with api.open("/v1/events") as (_, exchange):
        for number in range(900):
            control.publish("health", service="web", reason="x" * 2000, number=number)
        with trio.fail_after(5):
            await control.reader_left.wait()
            with pytest.raises(h11.RemoteProtocolError):
                await exchange.rest()


async def test_event_streams_and_idle_connections_end_at_once(
    api: Api, shutdown: trio.Event, over: trio.Event, autojump_clock: trio.testing.MockClock
) -> None:
    async with await api.connect() as idle, api.open("/v1/events") as (_, exchange):
        began = trio.current_time()
        shutdown.set()
        assert await exchange.rest() == b""
        assert await idle.receive_some() == b""
        await over.wait()
        assert trio.current_time() == began
    assert not api.socket.exists()


async def test_a_request_under_way_at_the_end_has_a_moment_and_no_longer(
    api: Api,
    control: FakeControl,
    shutdown: trio.Event,
    over: trio.Event,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    control.ending = None

    async def ask(version: str, task_status: trio.TaskStatus[None]) -> None:
        async with await api.connect() as stream:
            await stream.send_all(
                b"POST /v1/services/web/restart HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n" + b'{"wait": true}'
            )
            while not control.operation:
                await trio.testing.wait_all_tasks_blocked()
            task_status.started()
            answers.append(bytes(await stream.receive_some()))

    answers: list[bytes] = []
    await nursery.start(ask, "v2")
    began = trio.current_time()
    shutdown.set()
    await over.wait()
    assert trio.current_time() - began == pytest.approx(server.GRACE)
    await trio.testing.wait_all_tasks_blocked()
    assert answers == [b""]


async def test_no_socket_of_the_api_reaches_a_child(api: Api) -> None:
    async with api.open("/v1/events"), api.over_tcp().open("/v1/events"):
        inheritable = [fd for fd in _sockets() if os.get_inheritable(fd)]
    assert inheritable == []


async def test_garbage_and_half_requests_harm_nobody(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    for content in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nHost: x", b"GET " + b"x" * 100_000, b"\0" * 100, b""):
        async with await api.connect() as stream:
            await stream.send_all(content)
    for upgrade in (b"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"h2c"):
        async with await api.connect() as stream:
            await stream.send_all(
                b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: %s\r\n\r\n" % upgrade
            )
            with trio.fail_after(5):
                assert await stream.receive_some()
    assert (await api.get("/livez")).status == 200
    assert caplog.text == ""


@pytest.mark.usefixtures("few_places")
@pytest.mark.parametrize(
    "asked",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
        UPGRADE + b"h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        UPGRADE + b"websocket\r\n\r\n",
        UPGRADE + b"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nxxxxx",
    ],
)
async def test_a_client_that_asks_for_another_protocol_cannot_keep_its_place(
    api: Api, asked: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has changed over and says nothing more would stay for ever, and a few of them keep everybody else out."""
    monkeypatch.setattr("hypercorn.config.Config.keep_alive_timeout", 0.2)
    async with await api.over_tcp().connect() as first, await api.over_tcp().connect() as second:
        for stream in (first, second):
            await stream.send_all(asked)
        for stream in (first, second):
            with trio.fail_after(5):
                answer = b"".join([bytes(part) async for part in stream])
            assert answer.startswith(b"HTTP/1.1 ")
            assert not answer.startswith(b"HTTP/1.1 101")
        assert (await api.over_tcp().get("/livez")).status == 200
    assert "API failed" not in caplog.text
    assert "request failed" not in caplog.text


@pytest.mark.parametrize(
    "asked", [b"HEAD / HTTP/1.0\r\n\r\nx", b"GET /livez HTTP/1.0\r\n\r\nGET /livez HTTP/1.0\r\n\r\n"]
)
async def test_what_a_client_says_too_much_fills_no_log(
    api: Api, asked: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        async with await api.over_tcp().connect() as stream:
            await stream.send_all(asked)
            with trio.fail_after(5):
                async for _part in stream:
                    pass
    assert "Traceback" not in caplog.text
    assert len(caplog.records) <= 1


async def _slow(answer: Callable[[], Awaitable[object]]) -> object:
    await trio.testing.wait_all_tasks_blocked()
    return await answer()


def _sockets() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/fd") if _link(name).startswith("socket:")]


def _link(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.0.0.1:9900"])
async def test_nobody_elsewhere_gets_in_without_a_token_whatever_the_config_was_taken_for(
    control: FakeControl, shutdown: trio.Event, tmp_path: Path, listen: str
) -> None:
    admin = Admin(socket=tmp_path / "control.sock", listen=listen)
    with pytest.raises(UsageError, match="takes a token_file"):
        await server.serve(control, admin=admin, shutdown=shutdown)
