"""What the demo's clients count, against the demo's own server without a proxy in between."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from proxy.cli.demo import backend, websocket
from proxy.cli.demo.chat import Chat
from proxy.cli.demo.clients import Load
from proxy.cli.demo.connection import Connection, FailedError
from proxy.cli.demo.download import Download
from proxy.cli.demo.orders import Balance, balance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http import HTTPStatus
    from pathlib import Path


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    return tmp_path / "orders"


@pytest.fixture
def port(orders: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(backend, "VERSION", "v7")
    with backend.Server(("127.0.0.1", 0), partial(backend.Handler, orders)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


async def until_answers(load: Load, count: int) -> None:
    while load.sent < count:
        await trio.sleep(0.01)
    load.stop()


async def test_a_load_without_trouble_ends_on_its_first_connections_with_each_order_processed_once(
    port: int, orders: Path
) -> None:
    load = Load(port, readers=2, buyers=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        nursery.start_soon(until_answers, load, 20)
    assert (load.failed, load.reopened, load.still_open, load.on_both) == (0, 0, 4, 0)
    assert load.versions() == {"v7": load.sent}
    assert balance(orders, load.orders) == Balance(len(load.orders), 0, 0)
    assert load.orders


async def test_each_failure_and_each_new_connection_is_counted(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(port, readers=1, buyers=0)

    def every_third_is_cut_off(handler: backend.Handler) -> None:
        if load.sent % 3 == 1:
            handler.close_connection = True
        else:
            handler._answer("yes")

    monkeypatch.setattr(backend.Handler, "do_GET", every_third_is_cut_off)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run)
        nursery.start_soon(until_answers, load, 9)
    assert load.failures == {"cut off after 0 bytes": (load.sent + 1) // 3}
    assert load.reopened in {load.failed, load.failed - 1}  # the last request may be one that failed
    assert load.still_open == 0


async def test_answers_are_told_apart_by_when_their_request_began(port: int) -> None:
    load, connection = Load(port), Connection(port)
    load.answers.append(await connection.ask("GET", "/"))
    between = trio.current_time()
    load.answers.append(await connection.ask("GET", "/"))
    connection.close()
    assert load.versions(until=between).total() == load.versions(since=between).total() == 1


async def test_a_download_is_whole_only_with_every_byte_as_sent(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    good = Download(port)
    await good.run(0.1)
    assert (good.failure, good.version) == ("", "v7")
    assert good.size == len(backend._PIECE) * backend._PIECES
    assert good.ended - good.began >= 0.1

    begin = backend.Handler._begin

    def announce_others(handler: backend.Handler, status: HTTPStatus, headers: dict[str, str]) -> None:
        begin(handler, status, {**headers, "X-SHA256": "0" * 64})

    monkeypatch.setattr(backend.Handler, "_begin", announce_others)
    changed = Download(port)
    await changed.run(0)
    assert changed.failure == "its bytes were changed"


async def test_a_websocket_talks_until_it_is_told_to_stop_and_says_goodbye(port: int) -> None:
    chat = Chat(port)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chat.run)
            await chat.under_way.wait()
            chat.stop()
    assert (chat.failure, chat.version, len(chat.replies)) == ("", "v7", 1)


async def test_a_websocket_that_is_cut_is_a_failure(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.Handler, "_echo", lambda _: None)
    chat = Chat(port)
    await chat.run()
    assert chat.failure


async def test_a_websocket_whose_replies_come_from_another_version_is_a_failure(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(handler: backend.Handler) -> None:
        monkeypatch.setattr(backend, "VERSION", "v8")
        echo(handler)

    echo = backend.Handler._echo
    monkeypatch.setattr(backend.Handler, "_echo", change)
    chat = Chat(port)
    await chat.run()
    assert chat.failure == "'message 1' was answered with b'v8: message 1'"


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/elsewhere", "404"),
        ("GET", "/download?seconds=long", "400"),
        ("GET", "/socket", "426"),
        ("POST", "/elsewhere", "400"),
    ],
)
async def test_what_the_demo_s_server_does_not_know_is_answered_with_an_error(
    port: int, method: str, target: str, status: str
) -> None:
    connection = Connection(port)
    with pytest.raises(FailedError, match=f"answered with {status}"):
        await connection.ask(method, target)


def test_others_websocket_clients_can_talk_with_the_demo_s_server(port: int) -> None:
    client = pytest.importorskip("websockets.sync.client", reason="websockets is not installed")
    with client.connect(f"ws://127.0.0.1:{port}/socket") as websocket:
        websocket.send("hello")
        assert websocket.recv(timeout=10) == "v7: hello"
        websocket.ping().wait(10)


async def test_a_websocket_s_ping_is_answered(port: int) -> None:
    connection = Connection(port)
    names = {"Sec-WebSocket-Key": websocket.new_key(), "Sec-WebSocket-Version": websocket.VERSION}
    stream, _, _ = await connection.upgrade("/socket", {"Upgrade": "websocket", "Connection": "Upgrade", **names})
    await stream.send_all(websocket.encode(websocket.PING, b"there?", masked=True))
    frames = websocket.Frames(masked=False)
    frames.feed(await stream.receive_some())
    assert frames.take() == (websocket.PONG, b"there?")
    connection.close()
