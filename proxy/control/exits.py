"""How a process ended, in words."""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exit:
    """`code` as subprocess has it: the exit status, or minus the number of the signal that killed it; None where only
    its parent could know (it was started by an earlier run of the proxy).
    """

    code: int | None
    stopped: bool = False
    """Whether we were stopping it: then SIGKILL needs no explanation."""

    @property
    def is_clean(self) -> bool:
        return self.code == 0

    def __str__(self) -> str:
        if self.code is None:
            return "exited"
        if self.code >= 0:
            return f"exited with status {self.code}"
        if self.code == -signal.SIGKILL and not self.stopped:
            return "killed by SIGKILL (out of memory? `dmesg` says)"
        return f"killed by {_name(-self.code)}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
