"""Starting a process that is given listeners as its descriptors 3, 4 … (sd_listen_fds(3)).

Between the fork and the exec, kernel/listen_exec.py runs: in a Python interpreter of its own, because in a process with
threads nothing but C may run there. It costs 15 ms, once per start.
"""

from __future__ import annotations

import contextlib
import fcntl
import marshal
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from proxy.control import reaper
from proxy.control.exits import Exit
from proxy.errors import StartError
from proxy.kernel import listen_exec, nofile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from proxy.control.launch import User

# Read once: while the code of a new release is installed over this one, what is on the disk belongs to another proxy.
_SOURCE = Path(listen_exec.__file__).read_text(encoding="utf-8")


async def spawn(
    command: tuple[str, ...],
    env: Mapping[str, str],
    user: User | None,
    options: Mapping[str, Any],
    *,
    listeners: Sequence[socket.socket],
) -> trio.Process:
    """Like reaper.spawn; returns when the program runs. The `options` are those of subprocess.Popen.

    Raises OSError as subprocess.Popen does where the program cannot be run, and StartError where it did not get so far.
    """
    ours, theirs = socket.socketpair()
    with trio.socket.from_stdlib_socket(ours) as our_end:
        with theirs, _copies([theirs, *listeners], listen_exec.FIRST + len(listeners)) as (channel, *copies):
            process = await _start(channel, copies, env, options)
        with trio.CancelScope(shield=True):  # it has been started: nothing may forget that now
            with contextlib.suppress(ProcessLookupError, PermissionError):
                nofile.restore_for(process.pid)
            answer = await _converse(trio.SocketStream(our_end), _plan(command, env, user, copies))
            if answer == listen_exec.READY:
                return process
            code = await process.wait()
    number = answer.removeprefix(listen_exec.READY)
    if number:
        raise OSError(int(number), os.strerror(int(number)))
    raise StartError(f"cannot start {command[0]}: {sys.executable}, which was to run it, {Exit(code)}")


async def _start(
    channel: int, descriptors: Sequence[int], env: Mapping[str, str], options: Mapping[str, Any]
) -> trio.Process:
    # Its own environment: an LD_PRELOAD of the config would be loaded here with all rights. The mark is on it at once.
    environment = {**os.environ, **{name: value for name, value in env.items() if name.startswith("PROXY_")}}
    arguments = (sys.executable, "-I", "-S", "-c", _SOURCE, str(channel))
    try:
        return await reaper.spawn(arguments, env=environment, pass_fds=(channel, *descriptors), **options)
    except OSError as error:
        if error.filename != sys.executable:
            raise
        raise StartError(
            f"cannot run {sys.executable}, which is to pass the listeners on: {error.strerror}",
            hint="it is the Python that the proxy runs in; was its environment moved, or removed?",
        ) from error


async def _converse(stream: trio.SocketStream, plan: bytes) -> bytes:
    """Send the plan, and return all that is answered until the exec closes the other end, or the process has ended."""
    answer = b""
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(plan)
        await stream.send_eof()
        async for data in stream:
            answer += data
    return answer


def _plan(command: tuple[str, ...], env: Mapping[str, str], user: User | None, descriptors: Sequence[int]) -> bytes:
    """A listen_exec.Plan. The program is looked for where subprocess.Popen would."""
    folders = [""] if "/" in command[0] else os.get_exec_path(env)
    return marshal.dumps(
        (
            [os.fsencode(os.path.join(folder, command[0])) for folder in folders],
            [os.fsencode(word) for word in command],
            {os.fsencode(name): os.fsencode(value) for name, value in env.items()},
            list(descriptors),
            (user.uid, user.gid, list(user.groups)) if user else None,
        )
    )


@contextlib.contextmanager
def _copies(sockets: Sequence[socket.socket], least: int) -> Iterator[list[int]]:
    """Copies with numbers from `least` on, which are not in the way of those that they are to become."""
    with contextlib.ExitStack() as stack:
        found = []
        for each in sockets:
            found.append(fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, least))
            stack.callback(os.close, found[-1])
        yield found
