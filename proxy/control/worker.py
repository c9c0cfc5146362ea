"""One worker process: started on a socket of its own, or found running on one."""

from __future__ import annotations

import array
import logging
import os
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from proxy import __version__, wire
from proxy.control import disk, reaper
from proxy.control.link import Link
from proxy.control.mark import SUPERVISOR, supervisor
from proxy.control.process import Adopted, Process
from proxy.errors import WireError, WorkerVersionError
from proxy.kernel import procfs, unixpath
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from proxy.control.state import ProcessRecord
    from proxy.control.trouble import Troubles

log = logging.getLogger(__name__)

# How long one that was found running may take to say what it does.
INTRODUCTION_TIMEOUT = 5.0
_COMMAND = (sys.executable, "-P", "-m", "proxy.relay")


@dataclass(eq=False)
class Worker:
    """A running worker. `remaining` holds the connections of generations that no longer are the active one, `listening`
    the addresses that it accepts on, by service. One that `is_deaf` is to get no listeners yet, or no more.

    `path` is where its socket is; None where it has an abstract name (unix(7)), `name`.
    """

    index: int
    process: Process
    stream: trio.socket.SocketType
    path: Path | None
    name: str = ""
    started: int = 0  # as procfs.ProcessId has it
    release: str = __version__
    link: Link = field(init=False)
    booted: trio.Event = field(default_factory=trio.Event)
    served: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    is_deaf: bool = False
    remaining: dict[tuple[str, int], int] = field(default_factory=dict)
    listening: dict[str, set[str]] = field(default_factory=dict)
    accepting: dict[str, bool] = field(default_factory=dict)
    serving: dict[str, wire.Serving] = field(default_factory=dict)  # as it said when it was found
    listeners: dict[str, dict[str, socket.socket]] = field(default_factory=dict)  # likewise; ours to close

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def was_found(self) -> bool:
        return isinstance(self.process, Adopted)

    @property
    def identity(self) -> procfs.ProcessId:
        if isinstance(self.process, Adopted):
            return self.process.identity
        return procfs.ProcessId(self.pid, self.started)

    def meet(self, heard: Callable[[Worker, wire.Message], None]) -> None:
        """Make the link; `heard` is called for what it says unasked."""
        self.link = Link(self.stream, partial(heard, self))
        if self.was_found:
            self.booted.set()

    def let_go(self) -> None:
        """Leave one alone that was found."""
        self.stream.close()
        for by_address in self.listeners.values():
            for listener in by_address.values():
                listener.close()

    def forget_socket(self) -> None:
        """Remove its socket, once it is gone."""
        if self.path:
            with suppress(OSError):  # a disk that is read-only; the next worker takes another name
                self.path.unlink(missing_ok=True)


async def start(index: int, state_dir: Path, options: Sequence[str], troubles: Troubles) -> Worker:
    """Start a process that listens on a socket of its own, and connect: the kernel lets us, before it is ready.

    Raises OSError.
    """
    # Shielded: a process that was started must not be lost to a cancellation. Nothing in it waits for the worker.
    with trio.CancelScope(shield=True), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        path = _bind(listener, state_dir, index, troubles)
        listener.listen(1)
        name = listener.getsockname()
        process = await reaper.spawn(
            [*_COMMAND, "--fd", str(listener.fileno()), *options],
            pass_fds=[listener.fileno()],
            env={**os.environ, SUPERVISOR: supervisor(state_dir)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        stream = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if path is None:
            await stream.connect(name)
        else:
            with unixpath.reachable(path) as reachable:
                await stream.connect(reachable)
    return Worker(index, process, stream, path, "" if path else _printable(name), reaper.start_time(process.pid))


def _bind(listener: socket.socket, state_dir: Path, index: int, troubles: Troubles) -> Path | None:
    """Bind to a path of its own; to an abstract name where that cannot be, as on a disk that is full: traffic does not
    depend on the disk.
    """
    folder = folder_of(state_dir)
    # A worker and the one that takes its place are there at the same time.
    path = next(path for number in count() if not (path := folder / f"{index}.{number}.sock").exists())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have tidied up
        with unixpath.reachable(path) as name:
            listener.bind(name)
        path.chmod(0o600)
    except OSError as error:
        troubles.set(
            "workers",
            f"no worker's socket can be made in {folder}, so new ones have abstract names: {disk.reason(error)}",
            disk.hint(error, folder),
        )
        listener.bind("")  # the kernel chooses a name (unix(7), autobind)
        return None
    troubles.clear("workers")
    return path


def folder_of(state_dir: Path) -> Path:
    return state_dir / "workers"


async def find(state_dir: Path, recorded: Iterable[ProcessRecord]) -> list[Worker]:
    """Connect to every worker that runs, and ask what it does. One that does not answer is not among them.

    Raises WorkerVersionError, before anything is changed, if one is of a release that this one cannot talk to.
    """
    found = []
    addresses: list[Path | str] = sorted(folder_of(state_dir).glob("*.sock"))
    addresses += [each.socket for each in recorded if each.socket]
    try:
        for address in addresses:
            worker = await _find(address)
            if worker:
                found.append(worker)
    except WorkerVersionError:
        for each in found:
            each.let_go()
        raise
    return found


async def _find(address: Path | str) -> Worker | None:
    stream = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with trio.fail_after(INTRODUCTION_TIMEOUT):
            if isinstance(address, Path):
                with unixpath.reachable(address) as reachable:
                    await stream.connect(reachable)
            else:
                await stream.connect(b"\0" + bytes.fromhex(address))
            return await _introduced(stream, address)
    except WorkerVersionError:
        stream.close()
        raise
    except ConnectionRefusedError:
        if isinstance(address, Path):
            address.unlink(missing_ok=True)  # noqa: ASYNC240 - of one that is gone; it does not block
    except (OSError, trio.TooSlowError, WireError) as error:
        log.error("a worker runs, but does not answer", extra=facts(socket=address, reason=str(error) or "it is stuck"))
    stream.close()
    return None


async def _introduced(stream: trio.socket.SocketType, address: Path | str) -> Worker:
    """Hear who it is, and what it serves."""
    hello, _ = await _receive(stream)
    if not isinstance(hello, wire.Hello):
        raise WireError(f"its first word is {type(hello).__name__}")
    if hello.version not in wire.READS:
        raise WorkerVersionError(hello.pid, hello.release, hello.version, wire.READS)
    identity = procfs.identify(hello.pid)
    if identity is None:
        raise WireError(f"it says that it is pid {hello.pid}, which does not run")
    path = address if isinstance(address, Path) else None
    index = path.name.partition(".")[0] if path else ""
    worker = Worker(int(index) if index.isdecimal() else 0, Adopted(identity), stream, path, release=hello.release)
    if path is None:
        worker.name = str(address)
    await stream.send(wire.encode(wire.Describe(0)))
    while True:
        message, descriptors = await _receive(stream)
        if isinstance(message, wire.Ack):
            return worker
        if isinstance(message, wire.Serving):
            listeners = worker.listeners.setdefault(message.service, {})
            for name, descriptor in zip(message.listeners, descriptors, strict=True):
                listeners[name] = socket.socket(fileno=descriptor)
            worker.listening.setdefault(message.service, set()).update(message.listeners)
            worker.accepting[message.service] = message.accept
            worker.serving[message.service] = message


async def _receive(stream: trio.socket.SocketType) -> tuple[wire.Message, list[int]]:
    space = socket.CMSG_SPACE(wire.MAX_FDS * array.array("i").itemsize)
    payload, ancillary, _, _ = await stream.recvmsg(wire.MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC)
    if not payload:
        raise WireError("it is gone again")
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return wire.decode(payload), list(descriptors)


def _printable(name: bytes | str) -> str:
    raw = name if isinstance(name, bytes) else os.fsencode(name)
    return raw.removeprefix(b"\0").hex()
