"""Real backends for tests: started as the control process starts them, and gone when the test is over."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

import trio

from proxy.config.settings import Service, Version
from proxy.control import backend, reaper
from proxy.control.ports import Ports
from proxy.kernel import prctl, procfs
from proxy.kernel.inotify import FolderWatch

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from proxy.control.backend import Backend

SERVER = ("python3", "-m", "http.server", "--bind", "127.0.0.1", "{port}")


class World:
    """A state folder, ports, and the backends that were started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.ports = Ports()
        self.started: list[Backend] = []

    def service(self, command: str | tuple[str, ...], **settings: Any) -> tuple[Service, Version]:
        """`health` and `drain` go to the service, everything else to the version."""
        tables = {name: settings.pop(name) for name in ("health", "drain") if name in settings}
        name = settings.pop("version", "v1")
        version = Version(name=name, command=command, **{"cwd": self.folder, **settings})
        return Service(name="web", listen="127.0.0.1:8080", active=name, versions={name: version}, **tables), version

    async def start(
        self,
        command: str | tuple[str, ...],
        *,
        generation: int = 1,
        replica: int = 0,
        listeners: Sequence[socket.socket] = (),
        **settings: Any,
    ) -> Backend:
        service, version = self.service(command, **settings)
        given: dict[str, Any] = {"state_dir": self.state_dir, "ports": self.ports, "listeners": listeners}
        started = await backend.start(service, version, generation, replica, **given)
        self.started.append(started)
        return started

    async def text_of(self, name: str) -> str:
        """Wait until a backend has written a file, and return its content."""
        file = self.folder / name
        with trio.fail_after(10), FolderWatch(self.folder) as watch:
            while not (file.exists() and file.read_text().endswith("\n")):
                await watch.wait()
        return file.read_text().strip()

    async def pid_of(self, name: str) -> procfs.ProcessId:
        """The process whose pid a backend writes to a file."""
        found = procfs.identify(int(await self.text_of(name)))
        assert found
        return found


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """Supervise as the control process does. Nothing may be left in the end, not even a zombie."""
    before = procfs.children(os.getpid())
    created = World(folder)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reaper.run)
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield created
        finally:
            for each in created.started:
                await each.stop(signal.SIGKILL, 0)
            nursery.cancel_scope.cancel()
    prctl.set_child_subreaper(on=False)
    assert procfs.children(os.getpid()) <= before
