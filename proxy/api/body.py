"""Read what a request carries: a JSON object of known fields with the right types, or query parameters."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import trio

from proxy.api.errors import RequestError
from proxy.config.suggest import suggest
from proxy.core.duration import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.requests import Request

LIMIT = 64 * 1024  # bytes
TIMEOUT = 10.0  # seconds for a whole body to arrive


async def json_object(request: Request, *known: str) -> dict[str, Any]:
    """Return the body, which may be empty, as a dict that has none but the `known` fields.

    Raises RequestError: 400 for what is not such an object, 408 when it does not arrive, 413 when it is too long.
    """
    content = await _content(request)
    try:
        body = json.loads(content) if content.strip() else {}
    except (ValueError, RecursionError) as error:
        raise _wrong(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise _wrong("the body is not a JSON object", hint=f"its fields: {', '.join(known) or 'none'}")
    _only(known, body, "field")
    return body


def query(request: Request, *known: str) -> Mapping[str, str]:
    """Return the query parameters; RequestError (400) for one that is not `known`."""
    _only(known, request.query_params, "parameter")
    return request.query_params


def text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise _wrong(f'"{name}" is required: a string')
    return _sendable(name, value)


def flag(values: Mapping[str, Any], name: str) -> bool:
    """A boolean of a body or a query (`true`, `false`, `1`, `0`); false when it is left out."""
    value = values.get(name, False)
    known = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in known:
        return known[value]
    raise _wrong(f'"{name}" is true or false')


def count(values: Mapping[str, str], name: str, *, default: int, most: int) -> int:
    value = values.get(name, str(default))
    if not (value.isascii() and value.isdigit() and len(value) < 10) or int(value) > most:
        raise _wrong(f'"{name}" is a whole number from 0 to {most}')
    return int(value)


def seconds(body: Mapping[str, Any], name: str) -> float | None:
    """A duration, as text or a number of seconds; None when it is left out or null."""
    value = body.get(name)
    if value is None:
        return None
    try:
        return parse_duration(value)
    except ValueError as error:
        raise _wrong(f'"{name}": {error}') from error


def command(body: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """An argument list, or a string that is split as a shell would; None when it is left out or null."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError as error:
            raise _wrong(f'"{name}" cannot be split as a shell would: {error}') from error
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise _wrong(f'"{name}" is a string or a list of strings')
    if not value or not value[0]:
        raise _wrong(f'"{name}" is empty', hint='for example ["./app", "--port", "{port}"]')
    return tuple(_sendable(name, word) for word in value)


async def _content(request: Request) -> bytes:
    with trio.move_on_after(TIMEOUT):
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise _wrong("the body was cut off")
        content: bytes = message["body"]  # all of it: see intake.py
        if len(content) > LIMIT:
            raise RequestError(413, "too_large", f"the body is over {LIMIT} bytes")
        return content
    raise RequestError(408, "timeout", f"the body did not arrive within {TIMEOUT:g} seconds")


def _only(known: Iterable[str], given: Iterable[str], kind: str) -> None:
    for name in given:
        if name not in known:
            near = suggest(name, known)
            hint = f'did you mean "{near}"?' if near else f"known: {', '.join(known) or 'none'}"
            raise _wrong(f'unknown {kind} "{name}"', hint=hint)


def _sendable(name: str, value: str) -> str:
    """Text that can be an argument or a name: the system takes no NUL, and nothing takes half a surrogate pair."""
    if "\0" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)):
        raise _wrong(f'"{name}" has a character that cannot be used')
    return value


def _wrong(message: str, *, hint: str = "") -> RequestError:
    return RequestError(400, "usage", message, hint=hint)
