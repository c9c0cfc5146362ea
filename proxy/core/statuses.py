"""Sets of HTTP status codes as users write them: `"200-399"`, `"200,204"`, `"200-299,401"`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"([0-9]{3})(?:-([0-9]{3}))?")


@dataclass(frozen=True, slots=True)
class StatusRanges:
    """Which status codes count as healthy; both ends of a range belong to it."""

    ranges: tuple[tuple[int, int], ...]

    def __contains__(self, code: int) -> bool:
        return any(low <= code <= high for low, high in self.ranges)

    def __str__(self) -> str:
        return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in self.ranges)

    @classmethod
    def parse(cls, text: str) -> StatusRanges:
        """Raises ValueError with a sentence that says what is wrong."""
        return cls(tuple(_range(part.strip()) for part in text.split(",")))


def _range(text: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    if not match:
        raise ValueError(f'"{text}" is not a status code or range; write "200-399", "200,204" or "200-299,401"')
    low, high = int(match[1]), int(match[2] or match[1])
    if low > high:
        raise ValueError(f'the range "{text}" is empty; the smaller code comes first: "{high}-{low}"')
    if low < 100 or high > 599:
        raise ValueError(f'"{text}": HTTP status codes lie between 100 and 599 (RFC 9110, section 15)')
    return low, high
