"""What a backend's command and environment are filled in with.

Besides `{port}` and its like (placeholders.py): `$PORT`, `$PROXY_VERSION`, `$PROXY_GENERATION` and `$PROXY_REPLICA`,
with or without braces, because no shell runs that would do it. Every other dollar stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.core import placeholders

if TYPE_CHECKING:
    from collections.abc import Iterable

_VARIABLES = {
    "PORT": "port",
    "PROXY_VERSION": "version",
    "PROXY_GENERATION": "generation",
    "PROXY_REPLICA": "replica",
}
_NAMES = "|".join(_VARIABLES)
_VARIABLE = re.compile(rf"\$(?:\{{({_NAMES})\}}|({_NAMES})(?![A-Za-z0-9_]))")


@dataclass(frozen=True, slots=True)
class Values:
    """What the names stand for; one without a value is left as it is written."""

    version: str
    generation: int
    replica: int
    port: int | None = None
    socket: str | None = None
    fd: int | None = None

    def fill(self, text: str) -> str:
        values = {name: str(value) for name in placeholders.KNOWN if (value := getattr(self, name)) is not None}
        filled = placeholders.expand(text, values)
        return _VARIABLE.sub(lambda match: values.get(_VARIABLES[match[1] or match[2]], match[0]), filled)


def names(texts: Iterable[str]) -> set[str]:
    """Which of `placeholders.KNOWN` occur in the texts, `$PORT` as `port`."""
    texts = list(texts)
    variables = {_VARIABLES[match[1] or match[2]] for text in texts for match in _VARIABLE.finditer(text)}
    return variables | (placeholders.used(texts) & set(placeholders.KNOWN))
