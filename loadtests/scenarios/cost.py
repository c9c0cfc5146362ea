"""What a relay's CPU time comes to for each of what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadtests.machine import Cpu
    from loadtests.model import Sample


def cpu_columns(spent: Cpu, count: float, unit: float = 1.0, *, may_idle: bool = False) -> Sample:
    """The columns "user", "system" and "cpu", for each of `count`, in parts of a second: `unit` 1e6 is microseconds.

    Empty where there is nothing to tell: nothing was done, or in less time than /proc counts, or by no process. With
    `may_idle` no time at all is something to tell.
    """
    if not count or not (spent.total or may_idle):
        return {}
    user, system = spent.user * unit / count, spent.system * unit / count
    return {"user": user, "system": system, "cpu": user + system}
