"""What an earlier control process, which crashed, left running."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from proxy.control.family import Family
from proxy.control.mark import EarlierRun
from proxy.kernel import procfs
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from proxy.kernel.procfs import ProcessId

log = logging.getLogger(__name__)


async def stop(
    state_dir: Path, recorded: Iterable[ProcessId], *, boot_id: str, stop_signal: int, stop_timeout: float
) -> None:
    """Stop every backend of earlier control processes with this state folder, and all that came out of them.

    They are found by their mark; those that wrote over their environment by what was recorded of them, as long as
    that was since the last boot (`boot_id`, procfs.boot_id): pids and start times mean nothing after it. Bounded like
    `Backend.stop`.
    """
    mains = [each for each in recorded if _is_main(each)] if boot_id == procfs.boot_id() else []
    family = Family(mains, EarlierRun(state_dir))
    found = await trio.to_thread.run_sync(family.members)
    if not found:
        return
    log.warning("stopping what an earlier run left behind", extra=facts(pids=sorted(each.pid for each in found)))
    with trio.CancelScope(shield=True):
        left = await family.stop(stop_signal, trio.CancelScope(deadline=trio.current_time() + stop_timeout))
    if left:
        log.error("processes of an earlier run cannot be killed", extra=facts(pids=sorted(each.pid for each in left)))


def _is_main(recorded: ProcessId) -> bool:
    """Backends lead a session of their own; whatever does not, is none of them."""
    found = procfs.process(recorded.pid)
    return found is None or (found.id == recorded and found.session == found.pid)
