"""A range of firewall marks as users write it: `"0x5a000000-0x5a0000ff"`."""

from __future__ import annotations

import re
from dataclasses import dataclass

FEWEST = 16  # generations that one service can have alive at a time, and some more
MOST = 255  # generations that the kernel's side knows at a time
_LARGEST = 2**32 - 1  # SO_MARK, socket(7): 32 bits
_RANGE = re.compile(r"\s*(0[xX][0-9a-fA-F]+|[0-9]+)\s*-\s*(0[xX][0-9a-fA-F]+|[0-9]+)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Marks:
    """Both ends belong to the range. What lies beyond the first 255 marks of it is not used."""

    first: int
    last: int

    @property
    def count(self) -> int:
        """How many are used, from `first` on."""
        return min(self.last - self.first + 1, MOST)

    def __contains__(self, mark: int) -> bool:
        return self.first <= mark < self.first + self.count

    def __str__(self) -> str:
        return f"{self.first:#x}-{self.last:#x}"

    @classmethod
    def parse(cls, text: str) -> Marks:
        """Raises ValueError with a sentence that says what is wrong."""
        match = _RANGE.fullmatch(text) if len(text) < 100 else None
        if not match:
            raise ValueError(f'"{text}" is not a range of marks; write first-last: "{DEFAULT}"')
        first, last = (_number(number) for number in match.groups())
        if first > last:
            raise ValueError(f'the range "{text}" is empty; the smaller mark comes first')
        if first == 0:
            raise ValueError("a mark is greater than 0, which is what every other connection has")
        if last > _LARGEST:
            raise ValueError(f'"{text}": a mark has 32 bits, so that {_LARGEST:#x} is the largest (SO_MARK, socket(7))')
        if last - first + 1 < FEWEST:
            raise ValueError(
                f"{last - first + 1} marks are not enough: each generation that lives has one, so {FEWEST} at least"
            )
        return cls(first, last)


DEFAULT = Marks(0x5A000000, 0x5A0000FF)


def _number(text: str) -> int:
    return int(text, 16 if text[:2] in {"0x", "0X"} else 10)
