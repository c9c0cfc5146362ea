"""Whether a file is another one than it was when it was last looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def signature(path: Path) -> tuple[int, ...]:
    """Differs when the file does, in what is in it or in who may read it (st_ctime, inode(7)); empty without one."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
