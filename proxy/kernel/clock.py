"""Notice that the wall clock was set (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET)."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from typing import Self

import trio

_ABSTIME, _CANCEL_ON_SET = 0x1, 0x2
_NEVER = (1 << 8 * ctypes.sizeof(ctypes.c_long) - 1) - 1  # the largest time_t

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class ClockWatch:
    """Wakes when somebody sets the clock; not for what adjtimex(2) does little by little, nor for a leap second.

    Use it as a context manager. Raises OSError where the kernel has no such timer.
    """

    def __init__(self) -> None:
        flags = os.O_NONBLOCK | os.O_CLOEXEC  # what TFD_NONBLOCK and TFD_CLOEXEC are
        self._descriptor = _check(_libc.timerfd_create(time.CLOCK_REALTIME, flags))
        self._offset = offset()
        self._arm()

    async def stepped(self) -> float:
        """Wait until the clock is set; return by how many seconds, forward or (negative) back.

        Time that the machine slept counts as passed, not as a step.
        """
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            try:
                os.read(self._descriptor, 8)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno != errno.ECANCELED:
                    raise
            self._arm()
            before, self._offset = self._offset, offset()
            return (self._offset - before) / 1e9

    def _arm(self) -> None:
        """A timer for the end of time, that is cancelled by whoever sets the clock.

        ECANCELED says that it was set once more since; the timer is armed all the same, and says so again.
        """
        when = _Itimerspec(value=_Timespec(_NEVER, 0))
        flags = _ABSTIME | _CANCEL_ON_SET
        try:
            _check(_libc.timerfd_settime(self._descriptor, flags, ctypes.byref(when), None))
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise

    def close(self) -> None:
        if self._descriptor >= 0:
            trio.lowlevel.notify_closing(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def offset() -> int:
    """Nanoseconds between the wall clock and the time since boot: it changes when the wall clock is set."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
