"""One proxy for each state folder: a lock that the kernel releases when its holder is gone, however it went."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from proxy.errors import AddressInUseError, ProxyError
from proxy.kernel import procfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class StateFolderError(ProxyError):
    code = "state_folder"


@contextmanager
def hold(state_dir: Path) -> Iterator[None]:
    """Make the folder if it is missing and keep its lock (flock(2)) until the block ends.

    Raises AddressInUseError, which names the holder, or StateFolderError.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateFolderError(
            f"the state folder {state_dir} cannot be used: {error.strerror}",
            hint="set `state_dir` in the config to a folder that this user may write to",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    except BlockingIOError as error:
        raise AddressInUseError(
            f"another proxy runs on the state folder {state_dir}: {_holder(descriptor)}",
            hint="talk to that one with `proxyctl status`, or give this one its own `state_dir` and `admin.socket`",
        ) from error
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    pid = os.pread(descriptor, 32, 0).strip().decode(errors="replace")
    command = procfs.command_line(int(pid)) if pid.isdecimal() else ""
    return f"pid {pid} ({command})" if command else f"pid {pid or 'unknown'}"
