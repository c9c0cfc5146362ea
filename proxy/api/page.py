"""The admin page: files that are served as they are. What it shows it asks the API for, like anybody else."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

FOLDER = Path(__file__).with_name("page")
PREFIX = "/page/"

_FIRST = "index.html"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class _File(NamedTuple):
    content: bytes
    kind: str
    tag: str


def paths() -> frozenset[str]:
    """Where what the page is made of can be had."""
    return frozenset(
        PREFIX + path.name for path in FOLDER.iterdir() if path.suffix in _KINDS and path.suffix != ".html"
    )


async def index(request: Request) -> Response:
    return answer(request, _FIRST)


async def part(request: Request) -> Response:
    return answer(request, request.url.path.removeprefix(PREFIX))


def answer(request: Request, name: str) -> Response:
    """Browsers ask each time, and are told when they have it already: a new release shows at once."""
    file = _read(name)
    headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.kind, headers=headers)


@cache
def _read(name: str) -> _File:
    path = FOLDER / name
    content = path.read_bytes()
    return _File(content, _KINDS[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
