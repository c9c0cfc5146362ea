"""What tells a backend's processes apart by their environment, whoever their parent is by now."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxy.kernel import procfs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from proxy.kernel.procfs import ProcessId

SUPERVISOR = "PROXY_SUPERVISOR"


class Bearer(Protocol):
    """Says whether the environment of a process has the mark that is looked for."""

    def is_marked(self, environ: Mapping[str, str]) -> bool: ...


@dataclass(frozen=True)
class Mark:
    """The mark of one backend."""

    supervisor: str
    service: str
    generation: int
    replica: int

    def environment(self) -> dict[str, str]:
        return {
            SUPERVISOR: self.supervisor,
            "PROXY_SERVICE": self.service,
            "PROXY_GENERATION": str(self.generation),
            "PROXY_REPLICA": str(self.replica),
        }

    def is_marked(self, environ: Mapping[str, str]) -> bool:
        return self.environment().items() <= environ.items()

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Mark | None:
        """The mark in an environment, if there is a whole one."""
        generation, replica = environ.get("PROXY_GENERATION", ""), environ.get("PROXY_REPLICA", "")
        if not (generation.isdecimal() and replica.isdecimal()):
            return None
        return cls(environ.get(SUPERVISOR, ""), environ.get("PROXY_SERVICE", ""), int(generation), int(replica))


@dataclass(frozen=True)
class EarlierRun:
    """Whatever a control process before this one started, with the same state folder, but for what was taken over.

    There is one control process at a time to a state folder, so each other that had it is gone.
    """

    state_dir: Path
    taken_over: frozenset[Mark] = frozenset()

    def is_marked(self, environ: Mapping[str, str]) -> bool:
        found = environ.get(SUPERVISOR, "")
        if not found.endswith(f":{self.state_dir}") or found == supervisor(self.state_dir):
            return False
        return Mark.of(environ) not in self.taken_over


@dataclass(frozen=True)
class Marked:
    """The first process of a backend, as its environment tells."""

    mark: Mark
    process: ProcessId
    version: str
    port: int | None


def find(state_dir: Path) -> list[Marked]:
    """Look for backends that were started with this state folder. Reads all of /proc.

    Anyone can put anything into an environment: only processes of our own user count.
    """
    found = []
    for each in procfs.processes().values():
        if each.pid != each.session or each.is_dead:
            continue
        environ = procfs.environ(each.pid)
        mark = Mark.of(environ)
        if mark and mark.supervisor.endswith(f":{state_dir}") and procfs.uid(each.pid) == os.geteuid():
            port = environ.get("PORT", "")
            found.append(
                Marked(mark, each.id, environ.get("PROXY_VERSION", ""), int(port) if port.isdecimal() else None)
            )
    return found


@functools.cache
def supervisor(state_dir: Path) -> str:
    """This control process: `BOOT:PID:START_TIME:STATE_DIR`. An exec of new code does not change it, a reboot does."""
    this = procfs.identify(os.getpid())
    return f"{procfs.boot_id()}:{os.getpid()}:{this.start_time if this else 0}:{state_dir}"
