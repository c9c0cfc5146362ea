"""Answers of our own: short, and in the form that the client asked for.

They say what happened and what to do next. They say nothing of backends: whoever reads them may be anybody.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT: Final = "text/plain"
JSON: Final = "application/json"
HTML: Final = "text/html"

_TYPES = (TEXT, JSON, HTML)  # the first one is given where no preference decides
_CONTENT_TYPES = {TEXT: "text/plain; charset=utf-8", JSON: "application/json", HTML: "text/html; charset=utf-8"}

# What clients send is far shorter; what somebody makes up must not cost more than it is worth.
_LONGEST_ACCEPT = 512
_PART = r'(?:[^{0}"]|"(?:[^"\\]|\\.)*+"?)++'  # up to a separator; those in quotes are none (RFC 9110, 5.6.4)
_RANGE = re.compile(_PART.format(","), re.DOTALL)
_PARAMETER = re.compile(_PART.format(";"), re.DOTALL)
_WEIGHT = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")  # RFC 9110, 12.4.2

# Valid as XML too. Colours follow the reader's system, and nothing is fetched from anywhere.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<title>{title}</title>
<style>
body {{ font: 1.1em/1.5 system-ui, sans-serif; max-width: 34em; margin: 18vh auto 0; padding: 0 1.5em }}
h1 {{ font-size: 1.4em }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{message}</p>{hint}
</body>
</html>
"""

_UNSURE = "the request may have been processed: look before you send it again"


@dataclass(frozen=True, slots=True)
class Answer:
    """An error's status, what happened, and what to do next; `retry_after` is in seconds."""

    status: int
    message: str
    hint: str = ""
    retry_after: int | None = None

    @property
    def title(self) -> str:
        return f"{self.status} {HTTPStatus(self.status).phrase}"

    @property
    def code(self) -> str:
        """The status for programs, like "bad_gateway"."""
        return HTTPStatus(self.status).phrase.lower().replace(" ", "_").replace("-", "_")


ANSWERS: Final[Mapping[int, Answer]] = MappingProxyType(
    {
        answer.status: answer
        for answer in (
            Answer(400, "the request is not valid HTTP/1.1, or could be read in more than one way"),
            Answer(408, "the request did not arrive in time", "send it again"),
            Answer(431, "the request line and header fields are larger than 64 KiB", "send fewer or smaller cookies"),
            Answer(502, "the server gave no valid answer", _UNSURE),
            Answer(503, "no server is available at the moment", "send the request again in a moment", retry_after=1),
            Answer(504, "the server did not answer in time", _UNSURE),
        )
    }
)


def render(answer: Answer, *, accept: bytes, is_head: bool, close: bool, date: str) -> bytes:
    """Return a whole HTTP/1.1 response; `accept` and `date` are the fields' values (RFC 9110, 12.5.1 and 6.6.1)."""
    kind = choose(accept[:_LONGEST_ACCEPT])
    body = _body(answer, kind)
    lines = [
        f"HTTP/1.1 {answer.title}",
        f"Date: {date}",
        f"Content-Type: {_CONTENT_TYPES[kind]}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
    ]
    if answer.retry_after is not None:
        lines.append(f"Retry-After: {answer.retry_after}")
    if close:
        lines.append("Connection: close")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head if is_head else head + body


@lru_cache(128)
def choose(accept: bytes) -> str:
    """Return which of our media types a client likes best; text where it does not say, or accepts none of them.

    A type has the weight of the most specific range that covers it. Between equals, one that is named goes before one
    that is only covered, and the one that is named first before others: the standard leaves it open, but people write
    it so. Parameters other than the weight are not looked at: what they tell apart, we have only one of.
    """
    ranges: dict[str, tuple[float, int]] = {}  # the weight, and the place: an earlier one is greater
    for place, item in enumerate(_RANGE.findall(accept.decode("latin-1"))):
        parts = [part.strip(" \t").lower() for part in _PARAMETER.findall(item)] or [""]
        media, weight = parts[0], _weight(parts[1:])
        if weight is not None:
            ranges[media] = max(ranges.get(media, (0.0, -place)), (weight, -place))
    best, liked = TEXT, (0.0, 0, 0)
    for kind in _TYPES:
        for specificity, media in ((2, kind), (1, kind.partition("/")[0] + "/*"), (0, "*/*")):
            if media in ranges:
                weight, place = ranges[media]
                like = (weight, specificity, place)
                if weight and like > liked:
                    best, liked = kind, like
                break
    return best


def _weight(parameters: list[str]) -> float | None:
    """Return the weight among a range's parameters, or None where it has one that is none."""
    for parameter in parameters:
        if parameter.startswith("q="):
            match = _WEIGHT.fullmatch(parameter)
            return float(match[1]) if match else None
    return 1.0


@lru_cache(64)
def _body(answer: Answer, kind: str) -> bytes:
    if kind == JSON:
        error = {"status": answer.status, "code": answer.code, "message": answer.message, "hint": answer.hint}
        return json.dumps({"error": error}, separators=(",", ":")).encode() + b"\n"
    if kind == HTML:
        hint = f"\n<p>{html.escape(answer.hint)}</p>" if answer.hint else ""
        return _PAGE.format(title=answer.title, message=html.escape(answer.message), hint=hint).encode()
    hint = f"{answer.hint}\n" if answer.hint else ""
    return f"{answer.title}: {answer.message}\n{hint}".encode()
