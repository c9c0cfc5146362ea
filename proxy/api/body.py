"""Read what a request carries into its model (bodies.py), or say what is wrong with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from pydantic import ValidationError

from proxy.api.bodies import Fields
from proxy.api.errors import RequestError
from proxy.config.suggest import suggest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

LIMIT = 64 * 1024  # bytes
TIMEOUT = 10.0  # seconds for a whole body to arrive

F = TypeVar("F", bound=Fields)


async def read(request: Request, model: type[F]) -> F:
    """Return the body, which may be empty, as the model.

    Raises RequestError: 400 for what does not fit, 408 when it does not arrive, 413 when it is too long.
    """
    content = await received(request)
    try:
        body = json.loads(content) if content.strip() else {}
    except (ValueError, RecursionError) as error:
        raise _wrong(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise _wrong("the body is not a JSON object", hint=f"its fields: {_known(model)}")
    return _fitting(model, body, "field")


def query(request: Request, model: type[F]) -> F:
    """Return the query parameters as the model. Raises RequestError (400) for what does not fit."""
    return _fitting(model, request.query_params, "parameter")


async def received(request: Request) -> bytes:
    """The whole body as it came. Raises RequestError: 408 when it does not arrive, 413 when it is too long."""
    with trio.move_on_after(TIMEOUT):
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise _wrong("the body was cut off")
        content: bytes = message["body"]  # all of it: see intake.py
        if len(content) > LIMIT:
            raise RequestError(413, "too_large", f"the body is over {LIMIT} bytes")
        return content
    raise RequestError(408, "timeout", f"the body did not arrive within {TIMEOUT:g} seconds")


def _fitting(model: type[F], given: Mapping[str, Any], kind: str) -> F:
    known = model.model_fields
    for name in given:  # by name first: one that is misspelt is also one that is missing
        if name not in known:
            near = suggest(name, known)
            raise _wrong(
                f'unknown {kind} "{name}"', hint=f'did you mean "{near}"?' if near else f"known: {_known(model)}"
            )
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise _wrong(*_said(error)) from error


def _said(error: ValidationError) -> tuple[str, str]:
    """The first thing that is wrong, and a hint: what stands behind a semicolon."""
    first = error.errors(include_url=False)[0]
    field = first["loc"][0]
    reason = first.get("ctx", {}).get("error")
    message, _, hint = (str(reason) if reason else " is required: a string").partition("; for example ")
    return f'"{field}"{message}', f"for example {hint}" if hint else ""


def _known(model: type[Fields]) -> str:
    return ", ".join(model.model_fields) or "none"


def _wrong(message: str, hint: str = "") -> RequestError:
    return RequestError(400, "usage", message, hint=hint)
