"""What the kernel says of a disk, in words that help: the reason, and what to do about it (errno(3))."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT}


def reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def hint(error: OSError, folder: Path) -> str:
    """What a person can do, where that is known. The proxy notices by itself when it was done."""
    match error.errno:
        case errno.ENOSPC:
            return f"make room: `df -h {folder}` and `df -i {folder}` show how full it is"
        case errno.EDQUOT:
            return "make room, or raise the quota of the user that the proxy runs as"
        case errno.EROFS:
            return f"mount the file system of {folder} writable again; `dmesg` may say why it is not"
        case errno.EACCES | errno.EPERM:
            return f"{folder} has to belong to the user that the proxy runs as"
        case errno.EIO:
            return "the disk may be about to fail: `dmesg` says more"
        case errno.ENOENT | errno.ENOTDIR:
            return f"the folder {folder} is gone: make it again, for the user that the proxy runs as"
    return ""
