"""One proxy for each state folder: a lock that the kernel releases when its holder is gone, however it went."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from proxy.control import disk
from proxy.errors import AddressInUseError, ProxyError
from proxy.kernel import procfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class StateFolderError(ProxyError):
    code = "state_folder"


@contextmanager
def hold(state_dir: Path, inherited: int | None = None) -> Iterator[int]:
    """Make the folder if it is missing, and keep its lock (flock(2)) until the block ends; yields the descriptor.

    The lock belongs to what was opened, not to the process: a descriptor that came over an exec is `inherited` with the
    lock that it has. Where the lock file can be read but not written, as on a disk that became read-only, that is
    enough.

    Raises AddressInUseError, which names the holder, or StateFolderError.
    """
    descriptor = _opened(state_dir) if inherited is None else inherited
    try:
        os.set_inheritable(descriptor, False)
        _lock(descriptor, state_dir)
        _sign(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, state_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise AddressInUseError(
            f"another proxy runs on the state folder {state_dir}: {_holder(descriptor)}",
            hint="talk to that one with `proxyctl status`, or give this one its own `state_dir` and `admin.socket`",
        ) from error


def _opened(state_dir: Path) -> int:
    path, flags = state_dir / "lock", os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600)
        except OSError as error:
            if error.errno not in {errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT}:
                raise
            with contextlib.suppress(OSError):
                return os.open(path, os.O_RDONLY | flags)
            raise
    except OSError as error:
        raise StateFolderError(
            f"the state folder {state_dir} cannot be used: {disk.reason(error)}",
            hint="set `state_dir` in the config to a folder that this user may write to",
        ) from error


def _sign(descriptor: int) -> None:
    """Say whose it is. The lock holds without that, so no disk trouble matters here."""
    words = f"{os.getpid()}\n".encode()
    with contextlib.suppress(OSError):
        os.pwrite(descriptor, words, 0)  # before the rest is cut off: what is overwritten needs no room
        os.ftruncate(descriptor, len(words))


def _holder(descriptor: int) -> str:
    pid = os.pread(descriptor, 32, 0).strip().decode(errors="replace")
    command = procfs.command_line(int(pid)) if pid.isdecimal() else ""
    return f"pid {pid} ({command})" if command else f"pid {pid or 'unknown'}"
