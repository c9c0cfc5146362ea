"""Unix socket paths of any length: sockaddr_un holds 107 bytes (unix(7)); a folder's descriptor gets round that."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 107


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Yield a name for `path` that fits `bind` and `connect`; it holds until the block ends. Raises OSError when the
    folder does not exist.
    """
    if len(os.fsencode(path)) <= LIMIT:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
