"""Take room on a disk before it is needed (fallocate(2))."""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE: the file is not longer than it was

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def reserve(descriptor: int, size: int) -> None:
    """See to it that `size` bytes can be appended to the file. Raises OSError: ENOSPC, EDQUOT, EFBIG or EIO.

    Where the file system knows no reservations, nothing happens.
    """
    end = os.fstat(descriptor).st_size
    if _fallocate(descriptor, _KEEP_SIZE, end, size) == 0:
        return
    number = ctypes.get_errno()
    if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}:
        raise OSError(number, os.strerror(number))
