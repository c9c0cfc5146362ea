"""The POSTs' accounts: what the backends noted, held against what the clients sent.

Backends come and go with each swap, so each order that one of them has processed is a line in a file.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


def note(file: Path, order: str) -> None:
    """Add a line. Processes and threads may do so at once: with O_APPEND, a write is one step (write(2))."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{order}\n".encode())
    finally:
        os.close(descriptor)


class Balance(NamedTuple):
    """How many orders were `sent`, and how many of them were processed never and more than once."""

    sent: int
    lost: int
    repeated: int

    @property
    def once(self) -> int:
        return self.sent - self.lost - self.repeated


def balance(file: Path, sent: Collection[str]) -> Balance:
    """Read the file, in which there may be orders that others have sent."""
    processed = Counter(file.read_text().splitlines() if file.exists() else ())
    times = [processed[order] for order in sent]
    return Balance(len(times), times.count(0), sum(count > 1 for count in times))
