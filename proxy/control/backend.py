"""One process of one replica: started, watched over, and stopped with everything that came out of it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING

import trio

from proxy.control import held, heritage, launch, notify_socket, ownership, reaper, recipe, sockets
from proxy.control.exits import Exit
from proxy.control.family import Family
from proxy.control.heritage import Heritage
from proxy.control.mark import EarlierRun, Mark, Marked, supervisor
from proxy.control.record import Record
from proxy.core import template
from proxy.core.address import Address
from proxy.errors import StartError
from proxy.kernel import listen_exec, pidfd, procfs
from proxy.kernel.procfs import ProcessId
from proxy.logs import facts

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from proxy.config.settings import Service, Version
    from proxy.control.check import Subject
    from proxy.control.output import LogFile
    from proxy.control.ports import Ports
    from proxy.control.trouble import Troubles

_FIRST_LOOK, _LAST_LOOK, _SLOWER = 0.005, 0.2, 1.5  # seconds between two looks at what a family holds, and a factor

log = logging.getLogger(__name__)


class Backend:
    """A process that was started. Whoever has one calls `stop` in the end, also when it has exited by itself: it may
    have left others behind, and holds a port and a socket path until then.
    """

    def __init__(
        self,
        record: Record,
        *,
        subject: Subject,
        ports: Ports,
        log_file: LogFile | None,
        process: trio.Process | None,
        given: Heritage | None = None,
    ) -> None:
        self.record = record
        self.subject = subject
        self._given = given
        self._ports = ports
        self._log_file = log_file
        self._process = process
        self._exit: Exit | None = None
        self._exit_lock = trio.Lock()
        self._grace: trio.CancelScope | None = None
        self._gone = trio.Event()
        self._main = record.identity
        self._family = Family([self._main], record.mark)

    @property
    def pid(self) -> int:
        return self.record.pid

    @property
    def start_time(self) -> int:
        return self.record.start_time

    @property
    def address(self) -> Address:
        """Where it is to accept connections."""
        return self.subject.address

    @property
    def inherits(self) -> bool:
        """Whether it was given the public listeners."""
        return self._given is not None

    @property
    def has_own_endpoint(self) -> bool:
        """Whether `address` is where it alone is to accept; without, it is a public listener, which others have too."""
        return self._given is None or self._given.has_own_endpoint

    @property
    def replica(self) -> int:
        return self.record.replica

    @property
    def started(self) -> float:
        """Unix time."""
        return self.record.started

    async def exited(self) -> Exit:
        """Wait until the process has ended; any number of tasks may. What it started may live on, until `stop`."""
        async with self._exit_lock:
            if self._exit is None:
                code = await (self._process.wait() if self._process else pidfd.wait_exit_code(self._main))
                self._exit = Exit(code, stopped=self._grace is not None)
        return self._exit

    async def stop(self, stop_signal: int, stop_timeout: float) -> None:
        """Send the signal to the process group, SIGKILL to whatever is left of it all after `stop_timeout` seconds.

        Returns when nothing is left. Cancelling does not cut it short, but another call with less time does. It ends
        at the latest KILL_TIMEOUT after the SIGKILL, then with an error in the log.
        """
        deadline = trio.current_time() + stop_timeout
        with trio.CancelScope(shield=True):
            if self._grace:
                self._grace.deadline = min(self._grace.deadline, deadline)
                await self._gone.wait()
                return
            self._grace = trio.CancelScope(deadline=deadline)
            if self._given:
                self._given.readiness.hush()
            try:
                await trio.to_thread.run_sync(self._include_orphans)
                left = await self._family.stop(stop_signal, self._grace)
                await self._close(left)
            except OSError:  # out of descriptors, say: then at least what can be reached without looking
                log.exception("a backend cannot be stopped in order; killing its group", extra=facts(pid=self.pid))
                self._kill_group()
            finally:
                self._gone.set()

    def signal(self, number: int) -> None:
        """Signal the whole process group; nothing happens when it is gone."""
        self._family.signal_group(number)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def tree(self) -> set[int]:
        """The pids of everything that came out of it and runs, wherever it went."""
        return {member.pid for member in self._family.members()}

    def is_ready(self) -> bool:
        """Whether it was given the public listeners and has said READY=1, or is known to be well without."""
        return self._given is not None and self._given.readiness.is_ready

    async def ready(self) -> None:
        """Wait until it says READY=1; for one that was not given the public listeners, for ever."""
        if self._given is None:
            await trio.sleep_forever()
        else:
            await self._given.readiness.wait(self._is_member)

    def settle(self) -> None:
        """It need not say READY=1 any more, since it is known to be well. What it still says is thrown away."""
        if self._given:
            self._given.readiness.settle()

    def said(self) -> tuple[str, int]:
        """What it said last as its STATUS, and the pid of who else said READY=1; "" and 0 where there is none."""
        if self._given is None:
            return "", 0
        return self._given.readiness.status, self._given.readiness.stranger

    async def lets_go(self, inodes: Collection[int]) -> None:
        """Wait until none of its processes holds any of these sockets, or all have ended."""
        pause = _FIRST_LOOK
        while members := await trio.to_thread.run_sync(self._holders, inodes):
            with trio.move_on_after(pause):  # no event tells that a process has closed a descriptor
                await pidfd.wait_gone(members)
            pause = min(pause * _SLOWER, _LAST_LOOK)

    def connections(self, addresses: Collection[Address] = ()) -> int:
        """How many connections its processes hold that came in at these public addresses; without any, at those of the
        listeners that it was given, of which only the first is known of one that was taken over. Takes milliseconds.
        """
        if not addresses and self._given:
            addresses = self._given.addresses
        return held.connections(self.tree(), addresses)

    async def check_owner(self) -> str:
        """Return why the endpoint cannot be said to be ours, or nothing when it is. A public one is not asked about.

        Raises StartError when someone else's socket is there.
        """
        return await trio.to_thread.run_sync(self._check_owner) if self.has_own_endpoint else ""

    def listens_on(self) -> tuple[Address, ...]:
        """Every address that it, or what it started, listens on."""
        return ownership.listens_on(self.tree())

    def tail(self, lines: int) -> tuple[str, ...]:
        """The last lines it printed; none where it prints to the proxy's own output."""
        return self._log_file.tail(lines) if self._log_file else ()

    async def refresh(self, *, move_on: bool) -> bool:  # noqa: ARG002  # for External, an address can change
        """Our own endpoint stays where it is."""
        await trio.lowlevel.checkpoint()
        return False

    def _check_owner(self) -> str:
        strangers = ownership.strangers(self.address, self.tree())
        if strangers:  # or was it forked between the two looks? Its parent may have been the only one we knew
            strangers = ownership.strangers(self.address, self.tree())
        if strangers:
            raise StartError(
                f"{self.address} is answered by {', '.join(map(ownership.describe, strangers[:3]))}, "
                "which is not part of the process tree that was started",
                hint="stop what is there; or, if a container runtime (docker run -p, podman) listens for the backend, "
                'set `health.owner = "any"`',
            )
        if ownership.nobody(self.address):
            return f"something answers at {self.address}, but no process of this machine listens there"
        return ""

    def _include_orphans(self) -> None:
        """Count in who listens on our endpoint and was left to us, though it has covered its tracks: some daemons
        overwrite their environment to show a title.
        """
        if not self.has_own_endpoint:  # everyone of the service listens there, and so do we
            return
        try:
            strangers = ownership.strangers(self.address, self.tree())
        except OSError as error:  # no more descriptors, say: nothing may keep the others from being stopped
            log.warning("cannot tell who listens", extra=facts(address=self.address, reason=error.strerror))
            return
        for pid in strangers:
            found = procfs.process(pid) if pid else None
            if found and found.ppid == os.getpid() and not reaper.is_awaited(found.id):
                self._family.include([found.pid])

    def _holders(self, inodes: Collection[int]) -> set[ProcessId]:
        """All of its processes, as long as one of them has one of the sockets."""
        members = self._family.members()
        return members if held.holds_any((member.pid for member in members), inodes) else set()

    def _is_member(self, pid: int) -> bool:
        """A zombie is one too: a program that only says READY=1 for another may have ended by now."""
        found = procfs.process(pid)
        try:
            return found is not None and (found.session == self.pid or pid in self.tree())
        except OSError as error:
            log.warning("cannot tell who said READY=1", extra=facts(pid=pid, reason=error.strerror))
            return False

    async def _close(self, left: set[ProcessId]) -> None:
        if left:
            log.error(
                "a backend's processes cannot be killed",
                extra=facts(service=self.record.service, pids=sorted(member.pid for member in left)),
            )
        if self._main not in left:
            await self.exited()
        if self.has_own_endpoint:
            sockets.remove(self.address)
        if self._given:
            self._given.readiness.close()
        if self.record.port is not None:
            self._ports.release(self.record.port)


async def start(
    service: Service,
    version: Version,
    generation: int,
    replica: int,
    *,
    state_dir: Path,
    ports: Ports,
    troubles: Troubles | None = None,
    listeners: Sequence[socket.socket] = (),
) -> Backend:
    """Start the version's command. Raises StartError when it cannot be; that it is healthy is the prober's to say.

    With `listeners`, the public ones, it gets those as descriptors 3, 4 …, and a private port only if it asks for one.
    """
    user = await trio.to_thread.run_sync(launch.find_user, version.user) if version.user else None
    wanted = template.names((*version.command, *version.env.values()))
    mark = Mark(supervisor(state_dir), service.name, generation, replica)
    public = tuple(heritage.address(each) for each in listeners)
    with contextlib.ExitStack() as undo:
        port = None
        if "port" in wanted or not (public or "socket" in wanted):
            port = ports.take()
            undo.callback(ports.release, port)
        if "socket" in wanted:
            path = sockets.make_path(state_dir, service.name, generation, replica, user)
            address = Address(path=str(path))
            undo.callback(sockets.remove, address)
        else:
            address = public[0] if port is None else Address(host="127.0.0.1", port=port)
        subject = recipe.subject(version, mark, address, port, user, listen_exec.FIRST if public else None)
        env, given = subject.env, None
        if public:
            said = notify_socket.bind(state_dir, mark, user)
            undo.callback(said.close)
            given = Heritage(said, public, has_own_endpoint=address is not public[0])
            env = {**env, **recipe.service_manager(mark, len(public), said.path)}
        log_file = recipe.log_file(version, mark, state_dir, troubles)
        command = tuple(subject.values.fill(word) for word in version.command)
        process = await launch.launch(
            command, env=env, cwd=subject.cwd, user=user, log_file=log_file, listeners=listeners
        )
        undo.pop_all()
    identity = ProcessId(process.pid, reaper.start_time(process.pid))
    record = Record.of(mark, version.name, identity, address, port)
    return Backend(record, subject=subject, ports=ports, log_file=log_file, process=process, given=given)


def adopt(record: Record, version: Version, *, state_dir: Path, ports: Ports) -> Backend | None:
    """Take over a backend that an earlier run of the proxy started; None when it is gone.

    After an upgrade (an exec) it is still our child, and has been kept from the reaper (reaper.keep); after a crash it
    is not, and its exit status will not be known.
    """
    if not procfs.is_running(record.identity):
        return None
    reaper.keep(record.identity)
    if record.port is not None:
        ports.claim(record.port)
    address = Address.parse(record.address)
    given = heritage.recall(record, version, state_dir)
    subject = recipe.subject(version, record.mark, address, record.port, None, listen_exec.FIRST if given else None)
    log_file = recipe.log_file(version, record.mark, state_dir)
    return Backend(record, subject=subject, ports=ports, log_file=log_file, process=None, given=given)


async def stop_marked(leftover: Marked, stop_signal: int, stop_timeout: float) -> None:
    """Stop what an earlier run of the proxy left of a backend, with everything that came out of it."""
    await _stop_family(Family([leftover.process], leftover.mark), stop_signal, stop_timeout)


async def stop_unrecorded(
    state_dir: Path,
    stop_signal: int,
    stop_timeout: float,
    *,
    taken_over: frozenset[Mark] = frozenset(),
    workers: Collection[ProcessId] = (),
) -> None:
    """Stop everything else that carries the mark of an earlier run with this state folder: also what that had no time
    to record before it died. Backends and workers that were taken over are left alone.
    """
    await _stop_family(Family([], EarlierRun(state_dir, taken_over), workers), stop_signal, stop_timeout)


async def _stop_family(family: Family, stop_signal: int, stop_timeout: float) -> None:
    with trio.CancelScope(shield=True):
        left = await family.stop(stop_signal, trio.CancelScope(deadline=trio.current_time() + stop_timeout))
    if left:
        log.error("processes of an earlier run cannot be killed", extra=facts(pids=sorted(each.pid for each in left)))
