"""Signals to, the end of, and descriptors of one certain process, without a race against the reuse of its pid.

See pidfd_open(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
from typing import TYPE_CHECKING

import trio

from proxy.kernel import procfs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxy.kernel.procfs import ProcessId

_PIDFD_GETFD = 438  # the same number on every architecture of today

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def opened(identity: ProcessId) -> Iterator[int | None]:
    """A descriptor of the process; None when it is gone."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Looked at after the open: the descriptor stays with the process it names, so the answer stays right.
        yield descriptor if procfs.identify(identity.pid) == identity else None
    finally:
        os.close(descriptor)


def send(identity: ProcessId, number: int) -> None:
    """Send a signal; nothing happens when the process is gone. PermissionError where it may not be signalled."""
    with opened(identity) as descriptor, contextlib.suppress(ProcessLookupError):
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, number)


def duplicate(identity: ProcessId, number: int) -> int | None:
    """Open what the process has open as descriptor `number` (pidfd_getfd(2), Linux 5.6); the caller closes it.

    None when the process, or its descriptor, is gone. PermissionError where it may not be traced (ptrace(2),
    PTRACE_MODE_ATTACH_REALCREDS): it is another user's, not dumpable, or no descendant of ours where Yama's
    ptrace_scope is 1. CAP_SYS_PTRACE lifts all of these.
    """
    with opened(identity) as descriptor:
        if descriptor is None:
            return None
        copy: int = _libc.syscall(*map(ctypes.c_long, (_PIDFD_GETFD, descriptor, number, 0)))
        if copy >= 0:
            return copy
        error = ctypes.get_errno()
        if error in {errno.EBADF, errno.ESRCH}:
            return None
        raise OSError(error, os.strerror(error))


async def wait_gone(identities: Iterable[ProcessId]) -> None:
    """Return when all of them have ended; what is left of one may be a zombie that its parent has yet to reap."""
    await trio.lowlevel.checkpoint()
    for identity in identities:
        with opened(identity) as descriptor:
            if descriptor is not None:
                await trio.lowlevel.wait_readable(descriptor)


async def wait_exit_code(identity: ProcessId) -> int | None:
    """Wait for the end of a child that no Popen belongs to, and reap it; returns its code as subprocess has it.

    None for one that is not our child, or is gone already: only its parent learns its status.
    """
    await wait_gone([identity])
    try:
        ended = os.waitid(os.P_PID, identity.pid, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222  # it does not block
    except ChildProcessError:
        return None
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
