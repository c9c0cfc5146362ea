"""Wait for changes in a folder instead of looking again and again (inotify(7))."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from pathlib import Path

_MODIFY, _MOVED_TO, _MOVED_FROM, _CREATE, _DELETE, _DELETE_SELF = 0x2, 0x80, 0x40, 0x100, 0x200, 0x400
_EVENTS = _MODIFY | _MOVED_TO | _MOVED_FROM | _CREATE | _DELETE | _DELETE_SELF
_ONLY_FOLDERS = 0x01000000  # IN_ONLYDIR
_READ_SIZE = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class FolderWatch:
    """Wakes on files in one folder (not below it) being written, created, truncated, renamed or removed.

    Use it as a context manager: open it, look at the files, then wait, so that nothing between two looks is missed.
    Raises OSError: the folder does not exist, or the limits of inotify are reached (ENOSPC, EMFILE).
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            _check(_libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _EVENTS | _ONLY_FOLDERS))
        except OSError as error:
            self.close()
            raise OSError(error.errno, error.strerror, str(folder)) from None

    async def wait(self) -> None:
        """Return when something has changed since the last time; many changes are one."""
        await trio.lowlevel.wait_readable(self._descriptor)
        try:
            while len(os.read(self._descriptor, _READ_SIZE)) > _READ_SIZE // 2:
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        if self._descriptor >= 0:
            trio.lowlevel.notify_closing(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
