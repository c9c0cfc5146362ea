"""Files that survive a crash at any instant: written aside, synced, renamed, and the folder synced (rename(2)).

And files that are read with care: what is in them decides what is run, so nobody else may have written them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OTHERS_MAY_WRITE = 0o022


class UntrustedError(OSError):
    """The file is not one that this proxy wrote; `strerror` says why."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EPERM, why)


def replace(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Put `data` in place of what `path` held, atomically; without `sync` that holds for a crash of this process, and
    not of the machine.

    Raises OSError; then the old content stands, or, where only the sync of the folder failed, the new one.
    """
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)  # of a crash mid-write; or somebody's link to elsewhere, which O_EXCL does not follow
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(descriptor)
        os.rename(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def trusted(path: Path) -> Iterator[int]:
    """A descriptor to read a file that nobody but this user and root can have written. Never waits for a FIFO.

    Raises UntrustedError, or any other OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UntrustedError("it is a symbolic link") from error
        if error.errno == errno.ENXIO:
            raise UntrustedError("it is not a regular file") from error
        raise
    try:
        check(os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def check(found: os.stat_result) -> None:
    """Raises UntrustedError unless it is a regular file that only this user and root can write to."""
    if not stat.S_ISREG(found.st_mode):
        raise UntrustedError("it is not a regular file")
    if why := others(found):
        raise UntrustedError(why)


def others(found: os.stat_result) -> str:
    """Why users other than this one and root could have changed what is there; empty when they could not."""
    if found.st_uid not in {0, os.geteuid()}:
        return f"it belongs to another user ({found.st_uid})"
    if found.st_mode & _OTHERS_MAY_WRITE:
        return f"other users may write to it (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


def set_aside(path: Path) -> Path:
    """Rename what cannot be used to `NAME.unreadable-TIME`, and return that. Raises OSError."""
    aside = path.with_name(f"{path.name}.unreadable-{int(time.time())}")
    path.rename(aside)
    return aside
