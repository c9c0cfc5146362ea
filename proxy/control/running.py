"""What runs already when a control process starts, and what is to become of it."""

from __future__ import annotations

import logging
import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import trio

from proxy.control import adoption, backend, mark, ownership, worker
from proxy.control.state import ServiceRecord
from proxy.kernel import pidfd, procfs
from proxy.logs import facts

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.settings import Settings
    from proxy.control.adoption import Verdict
    from proxy.control.inherited import Inherited
    from proxy.control.mark import Mark, Marked
    from proxy.control.state import State
    from proxy.control.worker import Worker

log = logging.getLogger(__name__)

_STOP_TIMEOUT = 5.0

How = Literal["first", "adopted", "upgraded"]


@dataclass
class Running:
    """`workers` are connected to; `verdicts` say what becomes of each service of which something runs. What was started
    by an earlier control process, and is in none of them, is `lost` or `marked`: it is to be stopped.
    """

    how: How = "first"
    workers: list[Worker] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    lost: list[procfs.ProcessId] = field(default_factory=list)
    marked: list[Marked] = field(default_factory=list)

    @property
    def taken_over(self) -> frozenset[Mark]:
        kept = (
            record
            for verdict in self.verdicts.values()
            for generation in verdict.generations
            for record in generation.backends
        )
        return frozenset(record.mark for record in kept if procfs.is_running(record.identity))


async def look(state: State, settings: Settings, inherited: Inherited) -> Running:
    """Find the workers and backends of an earlier control process. The state is completed by what runs, and what it
    says of another boot of the machine is dropped from it; nothing else is changed.

    `settings` have the services that there were.

    Raises WorkerVersionError.
    """
    if state.boot != procfs.boot_id():
        _drop_processes(state)
    state_dir = settings.state_dir
    workers = await worker.find(state_dir, state.workers)
    for each in workers:
        for service, listeners in each.listeners.items():
            for address, listener in listeners.items():
                inherited.add(service, address, listener)
    marked = await trio.to_thread.run_sync(mark.find, state_dir)
    known = {each.identity for each in workers}
    recorded = [procfs.ProcessId(each.pid, each.start_time) for each in state.workers]
    lost = [each for each in recorded if each not in known and procfs.is_running(each)]
    verdicts = {}
    for name, configured in settings.services.items():
        serves = _serves(workers, name)
        record = state.services.setdefault(name, ServiceRecord())
        ours = [each for each in marked if each.mark.service == name]
        listening = [each for each in ours if await trio.to_thread.run_sync(_listens, each)]
        adoption.complete(record, serves, listening, configured.drain.deadline)
        record.next_generation = max([record.next_generation, *(each.mark.generation + 1 for each in ours)])
        verdicts[name] = adoption.judge(record, serves)
    runs = workers or any(verdict.generations for verdict in verdicts.values())
    how: How = "upgraded" if state.upgrade else "adopted" if runs else "first"
    return Running(how, workers, verdicts, lost, marked)


async def stop_rest(found: Running, state_dir: Path) -> None:
    """Stop what an earlier control process left running and nobody can use, and everything that came out of it."""
    taken_over = found.taken_over
    rest = [each for each in found.marked if each.mark not in taken_over]
    if rest or found.lost:
        pids = sorted(each.pid for each in (*found.lost, *(each.process for each in rest)))
        extra = facts(workers=len(found.lost), backends=len(rest), pids=" ".join(map(str, pids)))
        log.warning("an earlier run left what cannot be used; stopping it", extra=extra)
    for each in found.lost:
        pidfd.send(each, signal.SIGKILL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pidfd.wait_gone, found.lost)
        for leftover in rest:
            nursery.start_soon(backend.stop_marked, leftover, signal.SIGTERM, _STOP_TIMEOUT)
    workers = [each.identity for each in found.workers]
    await backend.stop_unrecorded(state_dir, signal.SIGTERM, _STOP_TIMEOUT, taken_over=taken_over, workers=workers)


def _listens(found: Marked) -> bool:
    """Whether it, or what descends from it, listens on its port: else it may be a child that a backend has put into a
    session of its own. Where there is no port, it is taken for the backend.
    """
    if found.port is None:
        return True
    tree = procfs.descendants(procfs.processes(), [found.process.pid])
    return found.port in {address.port for address in ownership.listens_on(tree)}


def _serves(workers: list[Worker], service: str) -> adoption.Serves:
    said = [each.serving[service] for each in workers if service in each.serving]
    connections: Counter[int] = Counter()
    for each in said:
        connections.update(each.connections)
    return adoption.Serves([each.route for each in said if each.route], dict(connections))


def _drop_processes(state: State) -> None:
    """Forget processes of another boot: pids and start times begin anew."""
    state.boot = procfs.boot_id()
    state.workers = []
    state.upgrade = None
    for service in state.services.values():
        service.generations = []
