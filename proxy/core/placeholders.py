"""`{port}` and its like in a version's command and environment."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KNOWN = ("port", "socket", "fd", "version", "generation", "replica")

# One pair of braces around one lower-case word. `${HOME}`, `{{name}}` and curl's `%{http_code}` are someone else's.
_PLACEHOLDER = re.compile(r"(?<![${%])\{([a-z_]+)\}(?!\})")


def used(texts: Iterable[str]) -> set[str]:
    """Every word in the texts that is written as a placeholder, known or not."""
    return {match[1] for text in texts for match in _PLACEHOLDER.finditer(text)}


def expand(text: str, values: Mapping[str, str]) -> str:
    """Replace the placeholders that `values` has; everything else stays as it is."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)
