"""Durations as users write them: `"1.5s"`, `"500ms"`, `"1m30s"`, or a number of seconds."""

from __future__ import annotations

import math
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
        raise ValueError(f"expected a duration, {_EXAMPLES}")
    if not seconds.is_finite():
        raise ValueError(f"a duration is a finite number of seconds, {_EXAMPLES}; 0 is none")
    if seconds < 0:
        raise ValueError(f"a duration cannot be negative; write it like {_EXAMPLES.removeprefix('for example ')}")
    if seconds > LONGEST:
        raise ValueError("a duration is at most a year (8760h)")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """Write seconds as a user would, to the millisecond: `1m30s`, `1.5s`, `250ms`, `0`."""
    if seconds != 0 and seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{round(rest, 3):g}s" if rest else ""]
    return "".join(parts) or "0"


def _from_text(text: str) -> Decimal:
    if _BARE.fullmatch(text):
        return Decimal(text)
    parts = _PARTS.fullmatch(text)
    if parts and text:
        return sum((Decimal(n) * _SECONDS[unit] for unit, n in parts.groupdict().items() if n), Decimal(0))
    if text.startswith("-") and math.isfinite(len(text)):
        return Decimal(-1)
    raise ValueError(f'"{text}" is not a duration; write a number with h, m, s or ms, {_EXAMPLES}')
