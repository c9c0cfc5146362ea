"""What has to be remembered of a backend to find it again after a restart of the proxy."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from proxy.control.mark import Mark
from proxy.core.address import Address
from proxy.kernel.procfs import ProcessId


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

    @classmethod
    def of(cls, mark: Mark, version: str, process: ProcessId, address: Address, port: int | None) -> Record:
        """The record of a process that was started just now."""
        return cls(
            service=mark.service,
            version=version,
            generation=mark.generation,
            replica=mark.replica,
            pid=process.pid,
            start_time=process.start_time,
            address=str(address),
            port=port,
            started=time.time(),
            supervisor=mark.supervisor,
        )

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be: the file it comes from may have been damaged."""
        Address.parse(self.address)
        if self.pid <= 1:
            raise ValueError(f"pid {self.pid} is no backend's")

    @property
    def identity(self) -> ProcessId:
        return ProcessId(self.pid, self.start_time)

    @property
    def mark(self) -> Mark:
        return Mark(self.supervisor, self.service, self.generation, self.replica)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
