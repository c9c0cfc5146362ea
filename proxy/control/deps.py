"""What every part of control shares, made once by the composition root."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.control.audit import Audit
    from proxy.control.counters import CountersFile
    from proxy.control.ending import Ending
    from proxy.control.events import Bus
    from proxy.control.history import History
    from proxy.control.open_connections import OpenConnections
    from proxy.control.ports import Ports
    from proxy.control.state_file import StateFile
    from proxy.control.steering import Steering
    from proxy.control.trouble import Troubles
    from proxy.control.workers import WorkerPool
    from proxy.metrics import Metrics


@dataclass(frozen=True)
class Deps:
    config_path: Path
    state_dir: Path
    bus: Bus
    history: History
    audit: Audit
    metrics: Metrics
    pool: WorkerPool
    steering: Steering
    open: OpenConnections
    ports: Ports
    state: StateFile
    counters: CountersFile
    troubles: Troubles
    ending: Ending
