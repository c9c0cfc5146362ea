"""A health check by a program: exit status 0 is healthy. It and its children are gone when the check is over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import trio

from proxy.control import reaper
from proxy.control.exits import Exit
from proxy.kernel import pidfd
from proxy.kernel.procfs import ProcessId

if TYPE_CHECKING:
    from proxy.control.check import Subject

_KEEP = 4096  # bytes of its output
_MAX_LINE = 200


async def run(command: tuple[str, ...], subject: Subject) -> str:
    """Return why it is not healthy: "exit status 1: last line printed". Cancelled, it kills the program at once."""
    filled = [subject.values.fill(word) for word in command]
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(writer, True)  # only our end is not to block
    printed = _Tail(reader)
    try:
        try:
            process = await reaper.spawn(
                filled,
                env=_environment(subject),
                cwd=subject.cwd,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                start_new_session=True,
            )
        except OSError as error:
            return f"cannot start {filled[0]}: {(error.strerror or str(error)).lower()}"
        finally:
            os.close(writer)
        code = await _finish(process, printed)
    finally:
        trio.lowlevel.notify_closing(reader)
        os.close(reader)
    if code == 0:
        return ""
    how = f"exit status {code}" if code > 0 else str(Exit(code))
    line = printed.last_line()
    return f"{how}: {line}" if line else how


async def _finish(process: trio.Process, printed: _Tail) -> int:
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(printed.collect)
            await pidfd.wait_gone([ProcessId(process.pid, reaper.start_time(process.pid))])
            nursery.cancel_scope.cancel()  # its children may hold the pipe open
        printed.take()
    finally:
        # Not reaped yet, it still owns its process group: no other can have the number.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            code = await process.wait()
    return code


def _environment(subject: Subject) -> dict[str, str]:
    port = {} if subject.address.is_unix else {"PORT": str(subject.address.port)}
    return {**subject.env, **port, "PROXY_ADDRESS": str(subject.address)}


class _Tail:
    """The end of what comes out of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._data = b""

    async def collect(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            if not self.take():
                return

    def take(self) -> bool:
        """Read what is there; False at the end."""
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return True
        self._data = (self._data + data)[-_KEEP:]
        return bool(data)

    def last_line(self) -> str:
        lines = self._data.decode(errors="replace").split("\n")
        return next((line.strip()[:_MAX_LINE] for line in reversed(lines) if line.strip()), "")
