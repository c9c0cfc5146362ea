"""Children: every one is reaped, and by the right hand.

The control process is a child subreaper (prctl.py): a process that a backend left behind becomes our child when its
parent dies, and a zombie when it ends. `run` reaps those. What we started ourselves is reaped by whoever awaits its
exit status, and the two must not be confused: so **every process of the control process is started by `spawn`**.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

import trio

from proxy.kernel import prctl, procfs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.kernel.procfs import ProcessId

# The kernel keeps one table of children for the whole process, and so do we.
_awaited: set[ProcessId] = set()
_spawning = 0
_MANY = 128  # entries, before those that are long gone are dropped


async def spawn(command: Sequence[str], **options: Any) -> trio.Process:
    """`trio.lowlevel.open_process`, safe beside `run`. Raises OSError when the program cannot be started."""
    global _spawning  # noqa: PLW0603
    # subprocess.Popen forks in a thread. Until it returns, there is a child whose pid is not known here, and one that
    # fails to exec is awaited by Popen itself: nothing may be reaped meanwhile.
    _spawning += 1
    try:
        process = await trio.lowlevel.open_process(command, **options)
        keep(procfs.ProcessId(process.pid, start_time(process.pid)))
    finally:
        _spawning -= 1
        reap()
    return process


def start_time(pid: int) -> int:
    """Of a child that has not been reaped, so that it must be in /proc."""
    found = procfs.process(pid)
    if found is None:
        raise ProcessLookupError(f"no process {pid} in /proc")
    return found.start_time


def keep(child: ProcessId) -> None:
    """Leave this child to whoever awaits its exit status."""
    if len(_awaited) >= _MANY:
        _awaited.intersection_update([each for each in _awaited if procfs.identify(each.pid) == each])
    _awaited.add(child)


def is_awaited(child: ProcessId) -> bool:
    return child in _awaited


def reap() -> None:
    """Reap every child that has ended and that nobody awaits. Never blocks."""
    while not _spawning:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # there are no children at all
            _awaited.clear()
            return
        if ended is None:
            return
        if not _reap_unless_awaited(ended.si_pid):
            # The kernel names this one again and again until its owner reaps it; others may stand behind it.
            for pid in procfs.children(os.getpid()) - {ended.si_pid}:
                _reap_unless_awaited(pid)
            return


def _reap_unless_awaited(pid: int) -> bool:
    child = procfs.process(pid)
    if child is None:
        return True
    if child.id in _awaited:
        return False
    # The pid of one that was awaited is used again: its entry has had its time.
    _awaited.difference_update([each for each in _awaited if each.pid == pid])
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return True


async def run() -> None:
    """Become the subreaper, then reap whenever a child ends, for ever. Run it as a task of the control process."""
    prctl.set_child_subreaper()
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        reap()  # what ended before the handler was there
        async for _ in signals:
            reap()
