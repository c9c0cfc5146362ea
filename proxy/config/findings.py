"""A problem by its key; the loader adds the place."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.config.positions import Path

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST = 300  # characters; a value of any length may be part of a message


class Finding(NamedTuple):
    """What is wrong at a path of the file. `at_key`: with the key itself, rather than with its value."""

    path: Path
    message: str
    hint: str = ""
    at_key: bool = False


def dotted(path: Iterable[str | int]) -> str:
    """A path as a user writes it: `services.web.listen[1]`, with quotes where TOML needs them."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in path).removeprefix(".")


def printable(text: str) -> str:
    """The text on one line that a terminal cannot misunderstand, shortened if need be."""
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def _key(part: str) -> str:
    return part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)
