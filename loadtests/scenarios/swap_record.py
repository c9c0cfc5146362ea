"""What clients notice of a swap, as one process tells it to another."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_KINDS = ("kept", "new")


@dataclass
class Answers:
    """When each good answer's request began, and how long that took, reconnects included. In seconds of monotonic."""

    began: array[float] = field(default_factory=lambda: array("d"))
    took: array[float] = field(default_factory=lambda: array("d"))

    def add(self, began: float, took: float) -> None:
        self.began.append(began)
        self.took.append(took)


@dataclass
class Record:
    """`failures`: requests without a good answer, by reason.

    `reconnects`: kept connections that were closed between two requests. `retries`: requests that were written already
    when their kept connection turned out to be closed, and were sent once more on a new one: a GET may be (RFC 9110,
    section 9.2.2).
    """

    kept: Answers = field(default_factory=Answers)
    new: Answers = field(default_factory=Answers)
    failures: Counter[str] = field(default_factory=Counter)
    reconnects: int = 0
    retries: int = 0

    def as_json(self) -> str:
        return json.dumps(vars(self), default=lambda part: part.tolist() if isinstance(part, array) else vars(part))

    @classmethod
    def from_json(cls, text: str) -> Record:
        fields: dict[str, Any] = json.loads(text)
        kept, new = (Answers(**{name: array("d", times) for name, times in fields[each].items()}) for each in _KINDS)
        return cls(kept, new, Counter(fields["failures"]), fields["reconnects"], fields["retries"])
