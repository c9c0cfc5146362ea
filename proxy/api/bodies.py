"""What a request may carry: the fields of each body and query, with their types. The description of the API is made of
these too (openapi.py).

Each converter raises a ValueError whose sentence goes on after the field's name.
"""

from __future__ import annotations

import shlex
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from pydantic.json_schema import WithJsonSchema

from proxy.core.duration import LONGEST, parse_duration

MOST_ENTRIES = 1000  # operations that one request can ask for: as many as control remembers
MOST_LINES = 100_000

_WORDS = {"true": True, "1": True, "false": False, "0": False}


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(" is required: a string")
    return _sendable(value)


def _flag(value: object) -> bool:
    """In a body true or false, in a query the same as words, or 1 and 0."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    raise ValueError(" is true or false")


def _seconds(value: object) -> float | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise ValueError(f": {error}") from None


def _command(value: object) -> tuple[str, ...] | None:
    """An argument list, or a string that is split as a shell would."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = shlex.split(value)
        except ValueError as error:
            raise ValueError(f" cannot be split as a shell would: {error}") from None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(" is a string or a list of strings")
    if not value or not value[0]:
        raise ValueError(' is empty; for example ["./app", "--port", "{port}"]')
    return tuple(_sendable(word) for word in value)


def _sendable(value: str) -> str:
    """Text that can be an argument or a name: the system takes no NUL, and nothing takes half a surrogate pair."""
    if "\0" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)):
        raise ValueError(" has a character that cannot be used")
    return value


def _count(least: int, most: int) -> PlainValidator:
    def count(value: object) -> int:
        text = str(value)
        if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
            raise ValueError(f" is a whole number from {least} to {most}")
        return int(text)

    return PlainValidator(count)


def _schema(**keywords: Any) -> WithJsonSchema:
    return WithJsonSchema(keywords)


_NO_NUL = r"^[^\u0000]*$"
_N = r"[0-9]+(\.[0-9]+)?"
_DURATION = {
    "oneOf": [
        {"type": "number", "minimum": 0, "maximum": LONGEST},
        {
            "type": "string",
            "pattern": rf"^{_N}(h({_N}m)?({_N}s)?({_N}ms)?|m({_N}s)?({_N}ms)?|s({_N}ms)?|ms)?$",
            "examples": ["500ms", "1m30s"],
        },
    ]
}

Text = Annotated[str, PlainValidator(_text), _schema(type="string", minLength=1, pattern=_NO_NUL)]
Flag = Annotated[bool, PlainValidator(_flag), _schema(type="boolean")]
Seconds = Annotated[float | None, PlainValidator(_seconds), _schema(anyOf=[_DURATION, {"type": "null"}])]
Command = Annotated[
    tuple[str, ...] | None,
    PlainValidator(_command),
    _schema(
        anyOf=[
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
            {"type": "null"},
        ]
    ),
]


class Fields(BaseModel):
    """Unknown fields are errors."""

    # Built when one is first needed: most starts of the proxy never do.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Nothing(Fields):
    """An empty object, or no body at all."""


class SwapBody(Fields):
    """Which version to go to, and how."""

    version: Text = Field(description="A version of the config, or a new name for what `command` starts.")
    deadline: Seconds = Field(
        default=None, description="How long open connections may go on with the old version; null: as configured."
    )
    command: Command = Field(
        default=None,
        description="Makes the version known: a program and its arguments, or a string that is split as a shell would. "
        "Over TCP this takes admin.allow_commands.",
    )
    wait: Flag = Field(default=False, description="Answer when it has ended, with its result.")


class OperateBody(Fields):
    """How to roll back or restart."""

    deadline: Seconds = Field(
        default=None, description="How long open connections may go on with the old generation; null: as configured."
    )
    wait: Flag = Field(default=False, description="Answer when it has ended, with its result.")


class StopBody(Fields):
    """How to stop."""

    now: Flag = Field(default=False, description="Close what is open instead of letting it finish.")


class HistoryQuery(Fields):
    service: Annotated[str | None, _schema(type="string")] = Field(
        default=None, description="Of one service; otherwise of all."
    )
    limit: Annotated[int, _count(0, MOST_ENTRIES), _schema(type="integer", minimum=0, maximum=MOST_ENTRIES)] = Field(
        default=100, description="How many, the newest."
    )


class LogsQuery(Fields):
    generation: Annotated[int | None, _count(1, 10**9 - 1), _schema(type="integer", minimum=1, maximum=10**9 - 1)] = (
        Field(default=None, description="What one generation printed; otherwise all that ran this version.")
    )
    lines: Annotated[int, _count(0, MOST_LINES), _schema(type="integer", minimum=0, maximum=MOST_LINES)] = Field(
        default=100, description="How many of the last lines."
    )
    follow: Flag = Field(default=False, description="Go on with what is printed from now on.")


class EventsQuery(Fields):
    status: Flag = Field(
        default=False,
        description="Also an event `status` with all that runs, at once, and then with what has changed of it.",
    )
