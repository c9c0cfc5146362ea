"""A small HTTP client for tests of the API: h11 over a trio stream, so that a test sees every byte's effect."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import h11
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error


class Exchange:
    """One connection. `head` waits for the beginning of the answer, `piece` for the next part of its body."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def send(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> None:
        headers = {"host": "localhost", **headers}
        if body:
            headers.setdefault("content-length", str(len(body)))
        request = h11.Request(method=method, target=target, headers=list(headers.items()))
        content = self._http.send(request)
        if body:
            content += self._http.send(h11.Data(data=body))
        await self.stream.send_all(content + self._http.send(h11.EndOfMessage()))

    async def head(self) -> Answer:
        event = await self._event()
        assert isinstance(event, h11.Response), event
        headers = {name.decode(): value.decode() for name, value in event.headers}
        return Answer(event.status_code, headers)

    async def piece(self) -> bytes:
        """Empty at the end. Raises h11.RemoteProtocolError when the answer is cut off."""
        event = await self._event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def rest(self) -> bytes:
        content = b""
        while piece := await self.piece():
            content += piece
        return content

    async def _event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(bytes(await self.stream.receive_some()))
        return event


@dataclass
class Api:
    """Where the API under test answers: over its Unix socket, or over TCP."""

    socket: Path
    port: int
    uses_tcp: bool = False

    def over_tcp(self) -> Api:
        return replace(self, uses_tcp=True)

    async def connect(self) -> trio.abc.Stream:
        if self.uses_tcp:
            return await trio.open_tcp_stream("127.0.0.1", self.port)
        return await trio.open_unix_socket(str(self.socket))

    @asynccontextmanager
    async def open(self, target: str, **headers: str) -> AsyncIterator[tuple[Answer, Exchange]]:
        async with await self.connect() as stream:
            exchange = Exchange(stream)
            await exchange.send("GET", target, _names(headers))
            yield await exchange.head(), exchange

    async def get(self, target: str, **headers: str) -> Answer:
        return await self._ask("GET", target, headers)

    async def post(self, target: str, body: Any = None, **headers: str) -> Answer:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return await self._ask("POST", target, headers, content)

    async def _ask(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> Answer:
        async with await self.connect() as stream:
            exchange = Exchange(stream)
            with trio.fail_after(10):
                await exchange.send(method, target, _names(headers), body)
                answer = await exchange.head()
                answer.body = await exchange.rest()
        return answer


def _names(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
