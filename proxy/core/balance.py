"""Choosing among replicas. Pure: how many connections each has comes in, an index goes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def least(loads: Sequence[int], turn: int) -> int:
    """Return the index of the smallest load. Equal ones take turns: `turn` grows by one with each pick."""
    smallest = min(loads)
    tied = [index for index, load in enumerate(loads) if load == smallest]
    return tied[turn % len(tied)]


def round_robin(loads: Sequence[int], turn: int) -> int:
    """Return each index in turn, whatever the loads."""
    return turn % len(loads)


POLICIES = {"least": least, "round_robin": round_robin}
