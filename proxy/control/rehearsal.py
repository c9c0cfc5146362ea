"""What new code does before it is let near anything: it starts, reads the config and the state, and says so or why not.

The control process that runs starts it as a process of its own, with the versions of what it would hand over.
"""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING

from proxy import wire
from proxy.control.state import READS
from proxy.control.state_file import StateFile
from proxy.errors import UpgradeError

if TYPE_CHECKING:
    from proxy.config.settings import Settings


def rehearse(settings: Settings, versions: str) -> None:
    """Raise UpgradeError if this code could not take over.

    `versions`: JSON, `{"state": FORMAT, "wire": VERSION, "state_dir": PATH}`.
    """
    importlib.import_module("proxy.relay.__main__")  # the workers' part of it
    handed_over = json.loads(versions)
    _expect("state", handed_over["state"], READS)
    _expect("messages between control and workers", handed_over["wire"], wire.READS)
    if str(settings.state_dir) != handed_over["state_dir"]:
        raise UpgradeError(
            f"state_dir was edited: what runs is in {handed_over['state_dir']}, and would not be found",
            hint="set it back; moving it takes a stop and a start",
        )
    StateFile.check(settings.state_dir / "state.json")


def _expect(what: str, version: int, known: frozenset[int]) -> None:
    if version not in known:
        reads = ", ".join(map(str, sorted(known)))
        raise UpgradeError(
            f"version {version} of the {what} is not known to this release, which reads {reads}",
            hint="upgrade in smaller steps: one release after the other",
        )
