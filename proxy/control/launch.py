"""Starting a process so that every way it can fail to start is an error a user understands."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from proxy.control import handing, reaper
from proxy.errors import StartError
from proxy.kernel import nofile

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping, Sequence

    from proxy.control.output import LogFile


@dataclass(frozen=True)
class User:
    """Whom to run as: what setuid, setgid and setgroups take, and what programs expect in their environment."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def find_user(name: str) -> User:
    """Look up a user by name, or by number. Raises StartError. May ask a directory server, and block."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise StartError(f'there is no user "{name}"', hint="useradd --system creates one") from None
    if os.geteuid() not in {0, entry.pw_uid}:
        raise StartError(
            f'cannot run as user "{name}": only root may start processes of other users',
            hint="run the proxy as root, or leave `user` out",
        )
    return User(
        name=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        groups=tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)),
        environment={"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name},
    )


async def launch(
    command: tuple[str, ...],
    *,
    env: Mapping[str, str],
    cwd: Path,
    user: User | None,
    log_file: LogFile | None,
    listeners: Sequence[socket.socket] = (),
) -> trio.Process:
    """Start a process in a session of its own. It prints to the log file; without one, to the proxy's own output.

    It has the listeners as descriptors 3, 4 …, and LISTEN_PID in its environment then. A log file that cannot be
    written keeps nothing from starting: see LogFile.open. Raises StartError.
    """
    if not await trio.Path(cwd).is_dir():
        raise StartError(f"the working directory {cwd} does not exist", hint="check `cwd` of the version")
    become = user if os.geteuid() == 0 else None
    spawn = partial(handing.spawn, listeners=listeners) if listeners else _spawn
    with _opened(log_file) as output:
        options = {"cwd": cwd, "stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        try:
            return await spawn(command, env, become, options | {"start_new_session": True})
        except OSError as error:
            raise _explained(error, command[0], cwd, env, user) from error


async def _spawn(
    command: tuple[str, ...], env: Mapping[str, str], user: User | None, options: Mapping[str, Any]
) -> trio.Process:
    identity = {"user": user.uid, "group": user.gid, "extra_groups": user.groups} if user else {}
    process = await reaper.spawn(command, env=dict(env), **options, **identity)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it may be gone; it may be another user's
        nofile.restore_for(process.pid)
    return process


@contextlib.contextmanager
def _opened(log_file: LogFile | None) -> Iterator[int | None]:
    if log_file is None:
        yield None
        return
    try:
        descriptor = log_file.open()
    except OSError as error:  # not the disk's doing: out of descriptors, say
        raise StartError(f"cannot write the output of the backend to {log_file.path}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _explained(error: OSError, program: str, cwd: Path, env: Mapping[str, str], user: User | None) -> StartError:
    """The error of fork or exec (execve(2)) in the user's terms."""
    where = cwd / program if "/" in program else shutil.which(program, path=env.get("PATH"))
    who = f' by user "{user.name}"' if user else ""
    if error.errno == errno.ENOENT and where and Path(where).exists():
        return StartError(f"cannot run {where}: its interpreter {_interpreter(Path(where))} does not exist")
    if error.errno == errno.ENOENT and "/" in program:
        return StartError(
            f"command not found: {program}", hint=f"a relative path starts at the working directory, {cwd}"
        )
    if error.errno == errno.ENOENT:
        return StartError(
            f"command not found: {program}", hint=f"it is in no folder of PATH ({env.get('PATH', 'which is empty')})"
        )
    if error.errno == errno.EACCES and not os.access(cwd, os.X_OK):
        return StartError(f"the working directory {cwd} may not be entered", hint="check its permissions")
    if error.errno == errno.EACCES:
        return StartError(
            f"{program} may not be executed{who}", hint=f"`chmod +x {where or program}`, or name its interpreter first"
        )
    if error.errno == errno.ENOEXEC:
        return StartError(
            f"{program} is not a program this machine can run",
            hint="a script needs a first line such as #!/bin/sh; a binary has to be built for this kind of CPU",
        )
    return StartError(f"cannot start {program}: {error.strerror}")


def _interpreter(script: Path) -> str:
    with contextlib.suppress(OSError), script.open("rb") as file:
        first = file.readline(256)
        if first.startswith(b"#!"):
            return first[2:].split()[0].decode(errors="replace") if first[2:].split() else "(none named)"
    return "or dynamic loader"
