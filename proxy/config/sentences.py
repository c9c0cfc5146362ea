"""Pydantic's errors as sentences for a person at 3 a.m."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.config.findings import Finding, dotted
from proxy.config.keys import meant, unknown_key
from proxy.config.values import BadValueError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from proxy.config.positions import Path

_NEEDED = {
    "services": ("a config needs at least one service", "add a table [services.NAME] with listen, active and versions"),
    "listen": ("a service needs an address to listen on", 'for example listen = "0.0.0.0:8080"'),
    "active": ("a service needs the version to start first", 'for example active = "v1"'),
    "versions": ("a service needs at least one version", "add a table [services.NAME.versions.v1] with its command"),
}


def translate(error: ValidationError) -> list[Finding]:
    """Turn every error of a validation into a Finding."""
    details = error.errors(include_url=False)
    return [_finding(each) for each in details if not _is_follow_up(each, details)]


def _is_follow_up(error: ErrorDetails, details: list[ErrorDetails]) -> bool:
    """A key that is missing because it was misspelt is one error, and so is a list's only item."""
    path = error["loc"]
    if error["type"] == "missing":
        unknown = (each for each in details if each["type"] == "extra_forbidden" and each["loc"][:-1] == path[:-1])
        return any(meant(each["loc"], each["input"]) == path[-1] for each in unknown)
    if error["type"] == "too_short":
        return any(each["loc"][:-1] == path for each in details)
    return False


def _finding(error: ErrorDetails) -> Finding:
    path = error["loc"]
    if error["type"] == "extra_forbidden":
        return unknown_key(path, error["input"])
    if path[-1] == "[key]":
        return Finding(path[:-1], *_sentence(error), at_key=True)
    if path[-1] == "name" and len(path) in {3, 5}:  # no key of the file: services and versions are named by their table
        return Finding(path[:-1], *_sentence(error), at_key=True)
    return Finding(path, *_sentence(error))


def _sentence(error: ErrorDetails) -> tuple[str, str]:
    """What is wrong, and a hint."""
    context = error.get("ctx", {})
    key = str(error["loc"][-1])
    match error["type"]:
        case "value_error":
            wrong = context["error"]
            return str(wrong), wrong.hint if isinstance(wrong, BadValueError) else ""
        case "missing" | "too_short" if key in _NEEDED:
            return _with_name(_NEEDED[key], error["loc"])
        case "dict_type" | "model_type":
            return _expected_table(error)
        case "greater_than_equal":
            return f"has to be at least {context['ge']}", ""
        case "less_than_equal":
            return f"has to be at most {context['le']}", ""
        case "too_long":
            return f"has more than {context['max_length']} items", ""
        case _:
            return error["msg"][:1].lower() + error["msg"][1:], ""


def _with_name(needed: tuple[str, str], path: Path) -> tuple[str, str]:
    message, hint = needed
    return message, hint.replace("NAME", str(path[1])) if len(path) > 1 else hint


def _expected_table(error: ErrorDetails) -> tuple[str, str]:
    header = dotted(part for part in error["loc"] if isinstance(part, str))
    if isinstance(error["input"], list):
        return "expected a table, not a list", f"write [{header}] with single brackets, or a name below it"
    if error["loc"][-2:-1] == ("versions",) and isinstance(error["input"], str):
        return "expected a table", f'write [{header}] and in it command = "{error["input"]}"'
    return "expected a table", f"write [{header}] and its keys below"
