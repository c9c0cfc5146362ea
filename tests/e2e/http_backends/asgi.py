"""An application for uvicorn and hypercorn.

`GET /` says who answers; `POST /ids/ID` counts an id; `/held/GATE` answers one half, and the other when the gate is
open; `/silent/GATE` answers nothing before; `/upload` hashes a body; `/events` is a stream of events; `/socket` is a
websocket.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from ledger import NAME, enter, is_open


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await _echo(receive, send)
    elif scope["type"] == "http":
        _, place, name = (scope["path"] + "/").split("/")[:3]
        answer = {"ids": _count, "held": _held, "silent": _silent, "upload": _upload, "events": _events}
        await answer.get(place, _hello)(name, receive, send)


async def _hello(_: str, receive: Any, send: Any) -> None:
    await _read(receive)
    await _answer(send, NAME)


async def _count(identity: str, receive: Any, send: Any) -> None:
    await _read(receive)
    enter(identity)
    await _answer(send, f"{NAME} {identity}")


async def _held(gate: str, receive: Any, send: Any) -> None:
    await _read(receive)
    begin, end = f"{NAME} begins\n".encode(), f"{NAME} ends\n".encode()
    await send(_head(len(begin + end)))
    await send({"type": "http.response.body", "body": begin, "more_body": True})
    if await _wait_for(gate, receive):
        await send({"type": "http.response.body", "body": end})


async def _silent(gate: str, receive: Any, send: Any) -> None:
    await _read(receive)
    if await _wait_for(gate, receive):
        await _answer(send, NAME)


async def _upload(_: str, receive: Any, send: Any) -> None:
    size, sha256 = 0, hashlib.sha256()
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request", "the upload was cut"
        size += len(message["body"])
        sha256.update(message["body"])
        more = message["more_body"]
    await _answer(send, f"{NAME} {size} {sha256.hexdigest()}")


async def _events(_: str, receive: Any, send: Any) -> None:
    await _read(receive)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    event = f"data: {NAME}\n\n".encode()
    while not await _has_left(receive, within=0.02):
        await send({"type": "http.response.body", "body": event, "more_body": True})


async def _echo(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{NAME} {message['text']}"})


async def _read(receive: Any) -> None:
    while (await receive()).get("more_body"):
        pass


async def _wait_for(gate: str, receive: Any) -> bool:
    """Whether the gate has been opened before the client left: a server that stops waits for what is under way."""
    while not is_open(gate):
        if await _has_left(receive, within=0.01):
            return False
    return True


async def _has_left(receive: Any, *, within: float) -> bool:
    try:
        await asyncio.wait_for(receive(), within)
    except TimeoutError:
        return False
    return True


async def _answer(send: Any, text: str) -> None:
    await send(_head(len(text)))
    await send({"type": "http.response.body", "body": text.encode()})


def _head(length: int) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(length).encode())]}
