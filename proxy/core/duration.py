"""Durations as users write them: `"1.5s"`, `"500ms"`, `"1m30s"`, or a number of seconds."""

from __future__ import annotations

import re
from decimal import Decimal

LONGEST = 365 * 86400.0  # seconds; every timer of ours and of the kernel can hold it

_EXAMPLES = 'for example "500ms", "1.5s", "2m" or "1m30s"'
_SECONDS = {"h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_BARE = re.compile(_NUMBER)
_PARTS = re.compile("".join(f"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in _SECONDS))


def parse_duration(value: object) -> float:
    """Return the seconds that a string or a number stands for; a string of digits alone is seconds too.

    Raises ValueError, with a sentence for the user, for anything that is not a length of time from 0 to a year.
    """
    if isinstance(value, str):
        seconds = _from_text(value.strip())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = Decimal(value)
    else:
        raise ValueError(f"expected a duration, {_EXAMPLES}")  # noqa: TRY004  # what pydantic collects
    if not seconds.is_finite():
        raise ValueError(f"a duration is a finite length of time, {_EXAMPLES}")
    if seconds < 0:
        raise ValueError(f"a duration cannot be negative: {_EXAMPLES}")
    if seconds > LONGEST:
        raise ValueError("a duration is at most a year (8760h)")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """Write seconds as a user would, to the millisecond: `1m30s`, `1.5s`, `250ms`, `0`."""
    milliseconds = round(seconds * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    parts = (f"{hours}h" * (hours > 0), f"{minutes}m" * (minutes > 0), f"{milliseconds / 1000:g}s" * (milliseconds > 0))
    return "".join(parts) or "0"


def _from_text(text: str) -> Decimal:
    sign, number = (-1, text[1:]) if text.startswith("-") else (1, text)
    if _BARE.fullmatch(number):
        return sign * Decimal(number)
    parts = _PARTS.fullmatch(number)
    if not parts or not number:
        raise ValueError(f'"{text}" is not a duration; write a number with h, m, s or ms, {_EXAMPLES}')
    return sign * sum((Decimal(n) * _SECONDS[unit] for unit, n in parts.groupdict().items() if n), Decimal(0))
