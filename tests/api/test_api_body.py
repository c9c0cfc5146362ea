"""What a request may carry, and how it is refused when it is wrong: always 400 (or 408, 413) with the field's name."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import trio

from proxy.api import body as limits
from tests.ask import Exchange

if TYPE_CHECKING:
    from tests.ask import Api
    from tests.fakes import FakeControl


@pytest.mark.parametrize(
    ("body", "says", "hint"),
    [
        ({}, '"version" is required', ""),
        ({"version": 2}, '"version" is required', ""),
        ({"version": ""}, '"version" is required', ""),
        ({"version": "v2", "deadlin": 3}, 'unknown field "deadlin"', 'did you mean "deadline"?'),
        ({"version": "v2", "force": True}, 'unknown field "force"', "known: version, deadline, command, wait"),
        ({"version": "v2", "deadline": "soon"}, '"deadline": "soon" is not a duration', ""),
        ({"version": "v2", "deadline": -1}, '"deadline": a duration cannot be negative', ""),
        ({"version": "v2", "deadline": True}, '"deadline": expected a duration', ""),
        ({"version": "v2", "deadline": math.nan}, '"deadline"', ""),
        ({"version": "v2", "deadline": [1]}, '"deadline"', ""),
        ({"version": "v2", "wait": "maybe"}, '"wait" is true or false', ""),
        ({"version": "v2", "wait": None}, '"wait" is true or false', ""),
        ({"version": "v2", "wait": 1}, '"wait" is true or false', ""),
        ({"version": "v2", "command": "./app 'x"}, '"command" cannot be split as a shell would', ""),
        ({"version": "v2", "command": ""}, '"command" is empty', ""),
        ({"version": "v2", "command": []}, '"command" is empty', ""),
        ({"version": "v2", "command": ["a", 1]}, '"command" is a string or a list of strings', ""),
        ({"version": "v2", "command": {"a": 1}}, '"command" is a string or a list of strings', ""),
        ({"version": "v2", "command": ["a\0b"]}, '"command" has a character', ""),
        ({"version": "v\ud800"}, '"version" has a character', ""),
        ([], "the body is not a JSON object", "its fields: version, deadline, command, wait"),
        ("v2", "the body is not a JSON object", ""),
        (b"null", "the body is not a JSON object", ""),
        (b"{", "the body is not JSON", ""),
        (b"\xff\xfe", "the body is not JSON", ""),
        (b"[" * 60_000, "the body is not JSON", ""),
        (b'{"version": ' + b"9" * 5000 + b"}", "the body is not JSON", ""),
        ({"\ud800": 1}, "unknown field", ""),
    ],
)
async def test_a_wrong_swap_request_is_refused_and_nothing_begins(
    api: Api, control: FakeControl, body: Any, says: str, hint: str
) -> None:
    answer = await api.post("/v1/services/web/swap", body)
    assert (answer.status, answer.error["code"]) == (400, "usage")
    assert says in answer.error["message"]
    assert hint in answer.error["hint"]
    assert control.calls == []


@pytest.mark.parametrize(
    ("path", "field"),
    [("pause", "deadline"), ("resume", "x"), ("rollback", "version"), ("restart", "command")],
)
async def test_fields_of_another_endpoint_are_unknown(api: Api, path: str, field: str) -> None:
    answer = await api.post(f"/v1/services/web/{path}", {field: "1"})
    assert (answer.status, answer.error["message"]) == (400, f'unknown field "{field}"')


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("/v1/history?limt=3", 'unknown parameter "limt"'),
        ("/v1/history?limit=-1", '"limit" is a whole number from 0 to 1000'),
        ("/v1/history?limit=1001", '"limit" is a whole number'),
        ("/v1/history?limit=", '"limit" is a whole number'),
        ("/v1/history?limit=%C2%B2", '"limit" is a whole number'),
        ("/v1/services/web/versions/v1/logs?follow=yes", '"follow" is true or false'),
        ("/v1/services/web/versions/v1/logs?lines=all", '"lines" is a whole number'),
        ("/v1/status?json=1", 'unknown parameter "json"'),
    ],
)
async def test_wrong_query_parameters_are_refused(api: Api, target: str, says: str) -> None:
    answer = await api.get(target)
    assert answer.status == 400
    assert says in answer.error["message"]


async def test_a_body_of_64_kib_is_taken_and_one_byte_more_is_not(api: Api, control: FakeControl) -> None:
    body = json.dumps({"version": "v2"}).encode()
    longest = body + b" " * (limits.LIMIT - len(body))
    assert (await api.post("/v1/services/web/swap", longest)).status == 202
    answer = await api.post("/v1/services/web/swap", longest + b" ")
    assert (answer.status, answer.error["code"]) == (413, "too_large")
    assert len(control.calls) == 1


async def test_a_body_that_never_arrives_does_not_hold_its_request_for_ever(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TIMEOUT", 0.05)
    async with await api.connect() as stream:
        await stream.send_all(b"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        exchange = Exchange(stream)
        exchange._http.send(_some_request())
        with trio.fail_after(5):
            answer = await exchange.head()
    assert answer.status == 408


@pytest.mark.parametrize("target", ["/v1/nothing", "/v1/status", "/v1/services/web/swap"])
async def test_a_flood_of_body_ends_with_the_answer(api: Api, target: str) -> None:
    """An endpoint that does not want the body must not leave the connection, and what serves it, hanging."""
    async with await api.connect() as stream:
        try:
            with trio.fail_after(5):
                await stream.send_all(
                    b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n" % target.encode()
                )
                while True:
                    await stream.send_all(bytes(65536))
        except trio.BrokenResourceError:
            pass
    assert (await api.get("/livez")).status == 200


def _some_request() -> Any:
    import h11

    return h11.Request(method="GET", target="/", headers=[("host", "x")])
