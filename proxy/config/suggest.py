"""What a misspelt word probably stands for."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The known words, those most like `word` first."""
    return sorted(
        known, key=lambda each: difflib.SequenceMatcher(None, word.lower(), each.lower()).ratio(), reverse=True
    )


def suggest(word: str, known: Iterable[str]) -> str:
    """The known word that `word` probably stands for, or an empty string."""
    by_lower = {each.lower(): each for each in known}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else ""


def listed(words: Iterable[str], last: str = "or") -> str:
    """`"a", "b" or "c"`."""
    quoted = [f'"{word}"' for word in words]
    return f" {last} ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
