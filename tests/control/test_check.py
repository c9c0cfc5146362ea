from __future__ import annotations

import functools
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio

from proxy.config.settings import Health
from proxy.control.check import CheckResult, Subject, check
from proxy.control.ports import Ports
from proxy.core.address import Address
from proxy.core.template import Values

if TYPE_CHECKING:
    from pathlib import Path

VALUES = Values(version="v1", generation=1, replica=0)


def at(port: int) -> Subject:
    return Subject(address=Address(host="127.0.0.1", port=port), values=VALUES)


async def answer(nursery: trio.Nursery, *data: bytes, close: bool = True) -> tuple[Subject, list[bytes]]:
    """A server that answers every request with the data, and keeps what it was sent."""
    heard: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                heard.append(await stream.receive_some())
                for part in data:
                    await stream.send_all(part)
                if not close:
                    await trio.sleep_forever()
            except trio.BrokenResourceError:
                pass

    (listener,) = await nursery.start(functools.partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    return at(listener.socket.getsockname()[1]), heard


async def http_check(*data: bytes, close: bool = True, **health: Any) -> CheckResult:
    async with trio.open_nursery() as nursery:
        subject, _ = await answer(nursery, *data, close=close)
        result = await check(Health(type="http", **health), subject)
        nursery.cancel_scope.cancel()
    return result


HEALTHY = CheckResult(healthy=True)


async def test_tcp_is_healthy_when_something_accepts_and_says_so_when_nothing_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        subject = at(listener.getsockname()[1])
        assert await check(Health(type="tcp"), subject) == HEALTHY
    assert await check(Health(type="tcp"), subject) == CheckResult(healthy=False, reason="connection refused")


async def test_a_check_never_takes_its_own_connection_for_the_backends() -> None:
    """Connecting to a free port of the range that outgoing connections use succeeds now and then: with itself."""
    with socket.socket() as itself:
        itself.bind(("127.0.0.1", 0))
        itself.connect(itself.getsockname())
        assert itself.getpeername() == itself.getsockname()
    with trio.socket.socket() as one:
        connect: Any = type(one).connect

    async def from_there(self: Any, address: Any) -> None:
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await self.bind(address)
        await connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trio._socket._SocketType.connect", from_there)
        result = await check(Health(type="tcp"), at(Ports().take()))
    assert result == CheckResult(healthy=False, reason="connection refused")


async def test_a_unix_socket_is_checked_like_a_port(tmp_path: Path) -> None:
    subject = Subject(address=Address(path=str(tmp_path / "a.sock")), values=VALUES)
    assert (await check(Health(type="tcp"), subject)).reason == "there is no such socket yet"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(subject.address.path)
        assert (await check(Health(type="tcp"), subject)).reason == "connection refused"
        listener.listen()
        assert await check(Health(type="tcp"), subject) == HEALTHY


async def test_a_unix_backend_that_does_not_accept_is_not_healthy_for_ever(tmp_path: Path) -> None:
    subject = Subject(address=Address(path=str(tmp_path / "a.sock")), values=VALUES)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(subject.address.path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(subject.address.path)
            assert (await check(Health(type="tcp"), subject)).reason == "its queue of waiting connections is full"


async def test_http_asks_for_the_path_and_says_where_and_that_it_will_not_stay() -> None:
    async with trio.open_nursery() as nursery:
        subject, heard = await answer(nursery, b"HTTP/1.1 204 No Content\r\n\r\n")
        assert await check(Health(type="http", path="/up?x=1"), subject) == HEALTHY
        nursery.cancel_scope.cancel()
    lines = heard[0].decode().split("\r\n")
    assert lines[0] == "GET /up?x=1 HTTP/1.1"
    assert {f"Host: {subject.address}", "Connection: close"} <= set(lines)


async def test_http_on_a_unix_socket_and_on_a_name_sends_a_sensible_host(tmp_path: Path) -> None:
    heard = []

    async def serve(stream: trio.SocketStream) -> None:
        heard.append(await stream.receive_some())
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await stream.aclose()

    with trio.socket.socket(socket.AF_UNIX) as listener:
        await listener.bind(str(tmp_path / "a.sock"))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listener)])
            address = Address(path=str(tmp_path / "a.sock"))
            for host in ("", "app.internal:80"):
                subject = Subject(address=address, values=VALUES, host=host)
                assert await check(Health(type="http"), subject) == HEALTHY
            nursery.cancel_scope.cancel()
    assert b"Host: localhost\r\n" in heard[0]
    assert b"Host: app.internal:80\r\n" in heard[1]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", "HTTP 500 Internal Server Error"),
        (b"HTTP/1.1 503 \r\n\r\n", "HTTP 503 Service Unavailable"),
        (b"HTTP/1.0 404 Gone Fishing\r\n\r\nx", "HTTP 404 Gone Fishing"),
        (b"HTTP/1.1 599 \r\n\r\n", "HTTP 599"),
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 200 O", "closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP answer"),
    ],
)
async def test_an_unhealthy_answer_is_told(data: bytes, reason: str) -> None:
    result = await http_check(data)
    assert not result.healthy
    assert result.reason.startswith(reason)


async def test_the_configured_statuses_decide() -> None:
    assert (await http_check(b"HTTP/1.1 401 Unauthorized\r\n\r\n", status="200,401")).healthy
    assert not (await http_check(b"HTTP/1.1 201 Created\r\n\r\n", status="200,401")).healthy


async def test_early_hints_are_not_the_answer() -> None:
    assert await http_check(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n") == HEALTHY


async def test_an_endless_head_ends_the_check_not_the_memory() -> None:
    result = await http_check(b"HTTP/1.1 200 OK\r\n", *[b"X-Fill: " + b"x" * 60_000 + b"\r\n"] * 20)
    assert not result.healthy
    assert result.reason.startswith("not an HTTP answer")


async def test_an_endless_body_does_not_keep_the_check_waiting() -> None:
    with trio.fail_after(1.5):
        assert await http_check(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 300_000, close=False) == HEALTHY


@pytest.mark.parametrize("kind", ["http", "command"])
async def test_a_check_without_an_answer_ends_at_its_timeout(kind: str) -> None:
    async with trio.open_nursery() as nursery:
        subject, _ = await answer(nursery, close=False)
        health = Health(type=kind, timeout=0.1, command="sleep 60")
        assert await check(health, subject) == CheckResult(healthy=False, reason="no answer within 100ms")
        nursery.cancel_scope.cancel()


async def test_without_a_check_a_backend_that_runs_is_healthy() -> None:
    assert await check(Health(type="none"), at(1)) == HEALTHY
