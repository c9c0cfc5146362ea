"""What is wrong with the machine around the proxy, while traffic goes on: said once in the log, and shown by `status`
and a metric for as long as it lasts.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from proxy.logs import facts

if TYPE_CHECKING:
    from proxy.control.events import Bus

Json = dict[str, Any]

Kind = Literal["state", "history", "audit", "output", "counters", "workers", "clock"]
"""What cannot be kept as it should be: the state file, past operations, who asked for what, what backends print,
metrics; `workers`: where new ones can be reached; `clock`: the wall clock was set.
"""
KINDS: tuple[Kind, ...] = get_args(Kind)

_MANY = 100  # texts of one trouble that are remembered as said

log = logging.getLogger(__name__)


@dataclass
class _Trouble:
    message: str
    hint: str
    since: float  # Unix time, to be shown
    began: float  # monotonic
    ends: float  # monotonic; infinity for what lasts until it is cleared
    said: set[str] = field(default_factory=set)


class Troubles:
    """One register for the whole control process. A trouble is of a kind, and `about` tells several of a kind apart."""

    def __init__(self, bus: Bus | None = None) -> None:
        self._bus = bus
        self._known: dict[tuple[Kind, str], _Trouble] = {}

    def set(
        self,
        kind: Kind,
        text: str,
        hint: str = "",
        *,
        about: str = "",
        lasts: float = math.inf,
        level: int = logging.ERROR,
    ) -> None:
        """There is trouble, or still is. Each text is logged once, until the trouble is over.

        `lasts`: seconds after which it is shown no longer, for what has happened rather than is.
        """
        now = time.monotonic()
        self._forget_old()
        found = self._known.setdefault((kind, about), _Trouble(text, hint, time.time(), now, now))
        found.message, found.hint, found.ends = text, hint, now + lasts
        if text in found.said:
            return
        if len(found.said) >= _MANY:
            found.said.clear()
        found.said.add(text)
        log.log(level, "trouble", extra=facts(kind=kind, reason=text, hint=hint or None))
        self._publish(kind, "begin", found)

    def clear(self, kind: Kind, about: str = "") -> None:
        """It is over; nothing happens when there was none."""
        self._forget_old()
        if found := self._known.pop((kind, about), None):
            seconds = round(time.monotonic() - found.began, 1)
            log.info("trouble is over", extra=facts(kind=kind, reason=found.message, lasted=f"{seconds} s"))
            self._publish(kind, "end", found)

    def message(self, kind: Kind, about: str = "") -> str:
        """What the trouble is; empty when there is none."""
        self._forget_old()
        found = self._known.get((kind, about))
        return found.message if found else ""

    def about(self, kind: Kind) -> list[str]:
        """What there is trouble of that kind with, in the words that it was set with."""
        self._forget_old()
        return [about for of, about in self._known if of == kind]

    def describe(self) -> list[Json]:
        """`kind`, `message`, `hint`, `since` (Unix time) of each, the oldest first."""
        self._forget_old()
        return [
            {"kind": kind, "message": found.message, "hint": found.hint, "since": round(found.since, 3)}
            for (kind, _), found in self._known.items()
        ]

    def active(self) -> dict[str, bool]:
        """Every kind, and whether there is trouble of it."""
        self._forget_old()
        return {kind: any(of == kind for of, _ in self._known) for kind in KINDS}

    def _forget_old(self) -> None:
        now = time.monotonic()
        self._known = {key: found for key, found in self._known.items() if found.ends > now}

    def _publish(self, kind: Kind, state: str, found: _Trouble) -> None:
        if self._bus:
            self._bus.publish("trouble", trouble=kind, state=state, message=found.message, hint=found.hint)
