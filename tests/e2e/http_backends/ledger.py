"""What the Python backends of the tests share: who they are, what they have processed, and gates to wait at.

$LEDGER is a file that all backends of a test append to: `ID VERSION GENERATION` for each request that was processed.
$GATES is a folder: a request to `/held/NAME` or `/silent/NAME` waits until a file of that name is there.
"""

from __future__ import annotations

import os
from pathlib import Path

NAME = f"{os.environ.get('PROXY_VERSION', '-')} {os.environ.get('PROXY_GENERATION', '-')}"
"""`VERSION GENERATION`, with which each answer begins."""

_ledger = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
_gates = Path(os.environ["GATES"])


def enter(identity: str) -> None:
    """One write, which O_APPEND keeps in one piece among the other backends'."""
    os.write(_ledger, f"{identity} {NAME}\n".encode())


def is_open(gate: str) -> bool:
    return (_gates / gate).exists()
