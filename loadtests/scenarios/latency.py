"""Percentiles, exact: of all samples, none of them rounded into a bucket."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHARES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


def percentiles(nanoseconds: Sequence[int]) -> dict[str, float]:
    """Times in nanoseconds as "p50", "p99" and "p999" in microseconds; empty where there are none."""
    if not nanoseconds:
        return {}
    ordered = sorted(nanoseconds)
    return {name: at(ordered, share) / 1e3 for name, share in _SHARES.items()}


def at(ordered: Sequence[int], share: float) -> int:
    """The smallest value that `share` of all are not above (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
