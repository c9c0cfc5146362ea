"""What a control process that died left running: found by the state file, stopped before anything new starts."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

import trio

from proxy.control import backend
from proxy.kernel import pidfd, procfs
from proxy.logs import facts

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.control.state import State

log = logging.getLogger(__name__)

_STOP_TIMEOUT = 5.0


async def stop(state: State, state_dir: Path) -> None:
    """Stop the workers and backends of an earlier run, and forget them. Nothing of another process is touched.

    Those on record first; then what the earlier run had no time to record, by the mark that all it started bears.
    """
    if state.boot == procfs.boot_id():
        workers = [procfs.ProcessId(worker.pid, worker.start_time) for worker in state.workers]
        running = [worker for worker in workers if procfs.is_running(worker)]
        backends = [
            record
            for service in state.services.values()
            for generation in service.generations
            for record in generation.backends
        ]
        if running or backends:
            extra = facts(workers=len(running), backends=len(backends))
            log.warning("an earlier run ended without stopping; stopping what it left", extra=extra)
        for worker in running:
            pidfd.send(worker, signal.SIGKILL)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pidfd.wait_gone, running)
            for record in backends:
                nursery.start_soon(backend.stop_leftover, record, signal.SIGTERM, _STOP_TIMEOUT)
        await backend.stop_unrecorded(state_dir, signal.SIGTERM, _STOP_TIMEOUT)
    state.boot = procfs.boot_id()
    state.workers = []
    for service in state.services.values():
        service.generations = []
