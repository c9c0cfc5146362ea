"""Who did what to the proxy, and when: a line in the log and an entry on file for each action that was accepted."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from proxy.logs import facts

if TYPE_CHECKING:
    from proxy.control.events import Bus
    from proxy.control.history import History
    from proxy.core.caller import Caller

log = logging.getLogger(__name__)


class Audit:
    """`entries` are on file beside the history of operations, which has what became of them."""

    def __init__(self, entries: History, bus: Bus) -> None:
        self.entries = entries
        self._bus = bus

    def note(self, action: str, by: Caller, *, service: str | None = None, **what: Any) -> None:
        """Write down that `action` was asked for `by` somebody and is being done. `what` says it exactly; None is left
        out.
        """
        known = {name: value for name, value in what.items() if value is not None}
        extra = facts(action=action, service=service, **known, **{f"by_{name}": v for name, v in by.describe().items()})
        log.info("action", extra=extra)
        entry = {"time": round(time.time(), 3), "action": action, "service": service, "by": by.describe(), **known}
        self.entries.add(entry)
        self._bus.publish("action", **entry)  # with the very time that is on file: that tells one from another
