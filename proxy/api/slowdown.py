"""Whoever fails to show a right token waits, for longer each time; and so few may wait that guessing leads nowhere."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import trio

from proxy.api.site import site_of

FIRST, LONGEST = 0.25, 8.0  # seconds that an answer to a failed attempt is held back
MEMORY = 60.0  # seconds without a failure after which an address begins anew
WAITING = 4  # answers that are held back for one address; more attempts are refused without a look at them
_ADDRESSES = 1024  # that are remembered; the one that failed longest ago goes first


@dataclass
class _Record:
    failures: int = 0
    last: float = -math.inf
    waiting: int = 0


class Slowdown:
    """Counts by address, since nothing else is known of who fails."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Record] = OrderedDict()

    def refuses(self, address: str) -> int:
        """For how many seconds an attempt from there is not looked at; 0 is a welcome."""
        found = self._known.get(site_of(address))
        return math.ceil(self._delay(found.failures)) if found and found.waiting >= WAITING else 0

    async def failed(self, address: str) -> None:
        """Hold back the answer to a failed attempt from there."""
        record = self._record(site_of(address))
        now = trio.current_time()
        record.failures = 1 if now - record.last > MEMORY else record.failures + 1
        record.last = now
        record.waiting += 1
        try:
            await trio.sleep(self._delay(record.failures))
        finally:
            record.waiting -= 1

    def _delay(self, failures: int) -> float:
        return float(min(LONGEST, FIRST * 2 ** min(failures - 1, 16)))

    def _record(self, site: str) -> _Record:
        record = self._known.setdefault(site, _Record())
        self._known.move_to_end(site)
        while len(self._known) > _ADDRESSES:
            self._known.popitem(last=False)
        return record
