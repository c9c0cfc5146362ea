"""Everything that comes out of one started process, and its end.

A backend's children can leave its process group (setpgid), its session (setsid) and its parent (a daemon forks twice),
so no single fact tells who belongs to it. A process does when one of these holds: it was seen to belong before; it is
in the session that was made for the backend; its environment carries the backend's mark; it descends from such a one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING

import trio

from proxy.control import reaper
from proxy.kernel import pidfd, procfs
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from proxy.control.mark import Bearer
    from proxy.kernel.procfs import Process, ProcessId

log = logging.getLogger(__name__)

KILL_TIMEOUT = 5.0  # seconds; what SIGKILL has not ended by then hangs in the kernel, or may not be signalled


class Family:
    """The processes of one backend, or of several. `mains` were started, each as the leader of a session of its own.
    Those that are `spared` do not belong, whatever their mark.
    """

    def __init__(self, mains: Collection[ProcessId], bearer: Bearer, spared: Collection[ProcessId] = ()) -> None:
        self._mains = {main.pid: main for main in mains}
        self._oldest = min((main.start_time for main in mains), default=0)
        self._bearer = bearer
        self._seen = set(mains)
        self._spared = frozenset(spared)

    def members(self) -> set[ProcessId]:
        """Those that run now; zombies do not count. Reads all of /proc: milliseconds, or more on a crowded machine."""
        table = procfs.processes()
        ours = procfs.descendants(table, [os.getpid()])
        # This process may itself have been started by one of them, from a shell: it, and what leads to it, stays out.
        untouchable = procfs.ancestors(table, os.getpid())
        rest = {pid: each for pid, each in table.items() if pid not in untouchable and each.id not in self._spared}
        roots = [each.pid for each in rest.values() if self._belongs(each, table, ours)]
        found = {table[pid].id for pid in procfs.descendants(rest, roots) if not table[pid].is_dead}
        self._seen |= found
        return found

    def include(self, pids: Iterable[int]) -> None:
        """Count these in, for a reason that only the caller knows."""
        self._seen.update(found for pid in pids if (found := procfs.identify(pid)))

    def _belongs(self, each: Process, table: Mapping[int, Process], ours: Collection[int]) -> bool:
        if each.id in self._seen:
            return True
        if each.start_time < self._oldest:
            return False
        return self._in_session(each, table) or self._is_marked(each, ours)

    def _in_session(self, each: Process, table: Mapping[int, Process]) -> bool:
        """The number of a session is the pid of its leader, and not used again before the session is empty."""
        main = self._mains.get(each.session)
        leader = table.get(each.session)
        return main is not None and (leader is None or leader.id == main)

    def _is_marked(self, each: Process, ours: Collection[int]) -> bool:
        """Anyone can put anything into an environment: a mark counts on our own descendants and on trusted users'."""
        if not self._bearer.is_marked(procfs.environ(each.pid)):
            return False
        users = {os.geteuid(), *(procfs.uid(pid) for pid in self._mains)}
        return each.pid in ours or procfs.uid(each.pid) in users

    def signal_group(self, number: int) -> None:
        """Signal each main process and all that stayed in its group, also when it is gone itself."""
        gone = set()
        for main in self._mains.values():
            if procfs.identify(main.pid) == main:  # until it is reaped, no other group can have its number
                with _reported(main.pid, number), contextlib.suppress(ProcessLookupError):
                    os.killpg(main.pid, number)
            else:
                gone.add(main.pid)
        if gone:
            for member in self.members():
                if _group(member) in gone:
                    _send(member, number)

    async def stop(self, number: int, grace: trio.CancelScope) -> set[ProcessId]:
        """Ask all of them to end, kill those that have not when `grace` is over; return those that even that spared."""
        with grace:
            await self._ask(number)
        with trio.move_on_after(KILL_TIMEOUT):
            await self._kill()
        reaper.reap()
        return await self._scan()

    async def _kill(self) -> None:
        """Return when all have ended. A group is killed in one step. Those who left it are stopped first: what is
        stopped cannot fork, so that also those that multiply are all found.
        """
        stopped: set[ProcessId] = set()
        while members := await self._scan():
            # As long as one of its members runs, the number of a group is not given to another (setpgid(2)).
            for group in {_group(member) for member in members} & self._mains.keys():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
            if new := members - stopped:
                for member in new:
                    _send(member, signal.SIGSTOP)
                stopped |= new
            else:
                for member in members:
                    _send(member, signal.SIGKILL)
                await pidfd.wait_gone(members)

    async def _ask(self, number: int) -> None:
        """Return when all have ended.

        Whoever left the main process's group hears the signal only when that is gone: once told, it may want to end
        its children in an order of its own.
        """
        members = await self._scan()
        self.signal_group(number)
        self.signal_group(signal.SIGCONT)  # one that was stopped (SIGSTOP) could not obey
        told = {member for member in members if _group(member) in self._mains}
        await pidfd.wait_gone(members & set(self._mains.values()))
        while members := await self._scan():
            for member in members - told:
                _send(member, number)
            told |= members
            await pidfd.wait_gone(members)

    async def _scan(self) -> set[ProcessId]:
        return await trio.to_thread.run_sync(self.members)


def _group(member: ProcessId) -> int:
    found = procfs.process(member.pid)
    return found.pgid if found else 0


def _send(member: ProcessId, number: int) -> None:
    with _reported(member.pid, number):
        pidfd.send(member, number)


@contextlib.contextmanager
def _reported(pid: int, number: int) -> Iterator[None]:
    """A process may have become another user's (setuid), and out of reach unless we are root."""
    try:
        yield
    except PermissionError:
        log.warning("a backend's process may not be signalled", extra=facts(pid=pid, signal=number))
