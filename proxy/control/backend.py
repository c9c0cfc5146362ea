"""One process of one replica: started, watched over, and stopped with everything that came out of it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from proxy.control import launch, output, ownership, reaper, sockets
from proxy.control.check import Subject
from proxy.control.exits import Exit
from proxy.control.family import Family, Mark, supervisor
from proxy.core import template
from proxy.core.address import Address
from proxy.errors import StartError
from proxy.kernel import pidfd, procfs
from proxy.kernel.procfs import ProcessId
from proxy.logs import facts

if TYPE_CHECKING:
    from proxy.config.settings import Service, Version
    from proxy.control.ports import Ports

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What has to be remembered of a backend to find it again: JSON values only. `start_time` is in clock ticks since
    boot, `started` a Unix time; `supervisor` is the control process that started it.
    """

    service: str
    version: str
    generation: int
    replica: int
    pid: int
    start_time: int
    address: str
    port: int | None
    started: float
    supervisor: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Backend:
    """A process that was started. Whoever has one calls `stop` in the end, also when it has exited by itself: it may
    have left others behind, and holds a port and a socket path until then.
    """

    def __init__(
        self, record: Record, *, subject: Subject, ports: Ports, log_file: Path | None, process: trio.Process | None
    ) -> None:
        self.record = record
        self.subject = subject
        self._ports = ports
        self._log_file = log_file
        self._process = process
        self._exit: Exit | None = None
        self._exit_lock = trio.Lock()
        self._grace: trio.CancelScope | None = None
        self._gone = trio.Event()
        mark = Mark(record.supervisor, record.service, record.generation, record.replica)
        self._family = Family(ProcessId(record.pid, record.start_time), mark)

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
                code = await (self._process.wait() if self._process else pidfd.wait_exit_code(self._family.main))
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
            try:
                await trio.to_thread.run_sync(self._include_orphans)
                left = await self._family.stop(stop_signal, self._grace)
                await self._close(left)
            finally:
                self._gone.set()

    def signal(self, number: int) -> None:
        """Signal the whole process group; nothing happens when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._family.signal_group(number)

    def tree(self) -> set[int]:
        """The pids of everything that came out of it and runs, wherever it went."""
        return {member.pid for member in self._family.members()}

    async def check_owner(self) -> str:
        """Return why the endpoint cannot be said to be ours, or nothing when it is.

        Raises StartError when someone else's socket is there.
        """
        return await trio.to_thread.run_sync(self._check_owner)

    def listens_on(self) -> tuple[Address, ...]:
        """Every address that it, or what it started, listens on."""
        return ownership.listens_on(self.tree())

    def tail(self, lines: int) -> tuple[str, ...]:
        """The last lines it printed; none where it prints to the proxy's own output."""
        return output.tail(self._log_file, lines) if self._log_file else ()

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
        for pid in ownership.strangers(self.address, self.tree()):
            found = procfs.process(pid) if pid else None
            if found and found.ppid == os.getpid() and not reaper.is_awaited(found.id):
                self._family.include([found.pid])

    async def _close(self, left: set[ProcessId]) -> None:
        if left:
            log.error(
                "a backend's processes cannot be killed",
                extra=facts(service=self.record.service, pids=sorted(member.pid for member in left)),
            )
        if self._family.main not in left:
            await self.exited()
        sockets.remove(self.address)
        if self.record.port is not None:
            self._ports.release(self.record.port)


async def start(
    service: Service, version: Version, generation: int, replica: int, *, state_dir: Path, ports: Ports
) -> Backend:
    """Start the version's command. Raises StartError when it cannot be; that it is healthy is the prober's to say."""
    user = await trio.to_thread.run_sync(launch.find_user, version.user) if version.user else None
    wanted = template.names((*version.command, *version.env.values()))
    with contextlib.ExitStack() as undo:
        port = None
        if "socket" not in wanted or "port" in wanted:
            port = await trio.to_thread.run_sync(ports.take)
            undo.callback(ports.release, port)
        if "socket" in wanted:
            path = sockets.make_path(state_dir, service.name, generation, replica, user)
            address = Address(path=str(path))
            undo.callback(sockets.remove, address)
        else:
            address = Address(host="127.0.0.1", port=port or 0)
        mark = Mark(supervisor(), service.name, generation, replica)
        subject = _subject(version, mark, address, port, user)
        file = _log_file(version, mark, state_dir)
        process = await _launch(version, subject, user, file)
        undo.pop_all()
    record = Record(
        service=service.name,
        version=version.name,
        generation=generation,
        replica=replica,
        pid=process.pid,
        start_time=reaper.start_time(process.pid),
        address=str(address),
        port=port,
        started=time.time(),
        supervisor=mark.supervisor,
    )
    return Backend(record, subject=subject, ports=ports, log_file=file, process=process)


def adopt(record: Record, version: Version, *, state_dir: Path, ports: Ports) -> Backend | None:
    """Take over a backend that an earlier run of the proxy started; None when it is gone.

    After an upgrade (an exec) it is still our child; after a crash it is not, and its exit status will not be known.
    """
    identity = ProcessId(record.pid, record.start_time)
    if not procfs.is_running(identity):
        return None
    reaper.keep(identity)
    if record.port is not None:
        ports.claim(record.port)
    mark = Mark(record.supervisor, record.service, record.generation, record.replica)
    subject = _subject(version, mark, Address.parse(record.address), record.port, None)
    log_file = _log_file(version, mark, state_dir)
    return Backend(record, subject=subject, ports=ports, log_file=log_file, process=None)


async def stop_leftover(record: Record, stop_signal: int, stop_timeout: float) -> None:
    """Stop what an earlier run of the proxy left behind, whether or not its main process still runs."""
    mark = Mark(record.supervisor, record.service, record.generation, record.replica)
    family = Family(ProcessId(record.pid, record.start_time), mark)
    with trio.CancelScope(shield=True):
        await family.stop(stop_signal, trio.CancelScope(deadline=trio.current_time() + stop_timeout))
    sockets.remove(Address.parse(record.address))


def _subject(version: Version, mark: Mark, address: Address, port: int | None, user: launch.User | None) -> Subject:
    values = template.Values(
        version=version.name,
        generation=mark.generation,
        replica=mark.replica,
        port=port,
        socket=address.path or None,
    )
    env = {
        **os.environ,
        **(user.environment if user else {}),
        **({} if port is None else {"PORT": str(port)}),
        "PROXY_VERSION": version.name,
        **{name: values.fill(value) for name, value in version.env.items()},
        **mark.environment(),  # last: what finds a backend's processes again is not for the config to change
    }
    return Subject(address=address, values=values, env=env, cwd=version.cwd)


def _log_file(version: Version, mark: Mark, state_dir: Path) -> Path | None:
    if version.output == "inherit":
        return None
    return output.path(state_dir, mark.service, version.name, mark.generation, mark.replica)


async def _launch(version: Version, subject: Subject, user: launch.User | None, file: Path | None) -> trio.Process:
    command = tuple(subject.values.fill(word) for word in version.command)
    with contextlib.ExitStack() as stack:
        descriptor = None
        if file:
            output.prune(file.parent, keep=output.KEEP_GENERATIONS - 1)
            descriptor = output.open_for_append(file)
            stack.callback(os.close, descriptor)
        return await launch.launch(command, env=subject.env, cwd=version.cwd, user=user, output=descriptor)
