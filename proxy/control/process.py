"""A process that an earlier control process started, with what is used of `trio.Process`."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Protocol

import trio

from proxy.control import reaper
from proxy.kernel import pidfd

if TYPE_CHECKING:
    from proxy.kernel.procfs import ProcessId


class Process(Protocol):
    """What is needed of either kind."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None:
        """Its code as subprocess has it; None while it runs, and where nobody can know."""
        ...

    def kill(self) -> None: ...

    async def wait(self) -> int | None: ...


class Adopted:
    """After an upgrade (an exec) it is still our child, and is to be made one of these before the reaper runs; after a
    crash it is not, and its exit status will not be known.
    """

    def __init__(self, identity: ProcessId) -> None:
        self.identity = identity
        self.returncode: int | None = None
        self._ending = trio.Lock()
        self._has_ended = False
        reaper.keep(identity)

    @property
    def pid(self) -> int:
        return self.identity.pid

    def kill(self) -> None:
        pidfd.send(self.identity, signal.SIGKILL)

    async def wait(self) -> int | None:
        """Wait for its end; any number of tasks may."""
        async with self._ending:
            if not self._has_ended:
                self.returncode = await pidfd.wait_exit_code(self.identity)
                self._has_ended = True
        return self.returncode
