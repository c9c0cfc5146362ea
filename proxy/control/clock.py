"""What a step of the wall clock means for the proxy: times that are shown shift, and nothing else happens."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from proxy.control import disk
from proxy.kernel.clock import ClockWatch
from proxy.logs import facts

if TYPE_CHECKING:
    from proxy.control.trouble import Troubles

NOTICEABLE = 1.0  # seconds; below it nobody has to know
_SHOWN = 600.0  # seconds that `status` shows it

log = logging.getLogger(__name__)


async def watch(troubles: Troubles) -> None:
    """Report every step of more than a second, for ever. Run it as a task of the control process."""
    try:
        clock = ClockWatch()
    except OSError as error:
        log.warning("steps of the clock will not be noticed", extra=facts(reason=disk.reason(error)))
        return
    with clock:
        while True:
            report(troubles, await clock.stepped())


def report(troubles: Troubles, step: float) -> None:
    """Say that the clock was set by so many seconds, forward or (negative) back."""
    if abs(step) <= NOTICEABLE:
        return
    direction = "forward" if step > 0 else "back"
    text = f"the clock of this machine was set {direction} by {abs(step):.1f} s"
    hint = "times and ages from before, in status, history and logs, are off by that; deadlines and checks are not"
    troubles.set("clock", text, hint, lasts=_SHOWN, level=logging.WARNING)
