"""When single answers make something healthy or not: `rise` successes in a row, or `fall` failures in a row."""

from __future__ import annotations


class RiseFall:
    """Counts answers. `healthy` is the verdict so far."""

    def __init__(self, *, rise: int, fall: int, healthy: bool = False) -> None:
        self.healthy = healthy
        self._rise = rise
        self._fall = fall
        self._against = 0  # answers in a row that speak against the verdict

    def record(self, *, ok: bool) -> bool:
        """Take one answer; return whether the verdict changed."""
        self._against = 0 if ok == self.healthy else self._against + 1
        if self._against < (self._fall if self.healthy else self._rise):
            return False
        if ok == self.healthy:  # only with a rise or fall of 0, which counts as 1
            return False
        self.healthy = ok
        self._against = 0
        return True
