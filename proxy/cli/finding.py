"""What `proxyctl doctor` says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """`fail` means that the proxy cannot run here; `fix` says how to change what is not `ok`."""

    name: str
    level: Level
    value: str
    fix: str = ""
