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


@dataclass(frozen=True)
class EarlierRun:
    """Whatever a control process before this one started, with the same state folder.

    There is one control process at a time to a state folder, so each other that had it is gone.
    """

    state_dir: Path

    def is_marked(self, environ: Mapping[str, str]) -> bool:
        found = environ.get(SUPERVISOR, "")
        return found.endswith(f":{self.state_dir}") and found != supervisor(self.state_dir)


@functools.cache
def supervisor(state_dir: Path) -> str:
    """This control process: `BOOT:PID:START_TIME:STATE_DIR`. An exec of new code does not change it, a reboot does."""
    this = procfs.identify(os.getpid())
    return f"{procfs.boot_id()}:{os.getpid()}:{this.start_time if this else 0}:{state_dir}"
