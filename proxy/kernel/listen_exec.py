"""Give descriptors to a program as sd_listen_fds(3) has it, then become it. This file is a program of its own.

It is run as `python -I -S -c SOURCE CHANNEL`, where CHANNEL is the number of a stream socket. A `Plan` comes in there;
what goes out is READY when all is set for the exec, and then an errno in decimal if that has failed. LISTEN_PID has to
be the pid of the program itself, so that nobody but the process that becomes it can set it.

It starts as the user of the proxy and becomes the other one at the end: the Python interpreter may be in a folder that
the other user may not enter. Its own environment is the proxy's, never the program's: an LD_PRELOAD in that one would
be loaded with the rights of the proxy. Every import costs; these are in the interpreter.
"""

import marshal
import posix
import sys
from _signal import SIG_DFL, SIGPIPE, SIGXFSZ, signal  # type: ignore[import-not-found]

FIRST = 3  # SD_LISTEN_FDS_START
READY = b"!"
_CHUNK = 1 << 16

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Plan(NamedTuple):
        """As a plain tuple, packed by marshal(3). `programs` are the paths to try, `descriptors` what becomes 3, 4 …:
        none of them is one of those already, and neither is CHANNEL. `user`: uid, gid and groups.
        """

        programs: list[bytes]
        arguments: list[bytes]
        environment: dict[bytes, bytes]
        descriptors: list[int]
        user: tuple[int, int, list[int]] | None


def main(channel: int) -> None:
    programs, arguments, environment, descriptors, user = _receive(channel)
    try:
        posix.set_inheritable(channel, False)
        _place(descriptors)
        environment[b"LISTEN_PID"] = b"%d" % posix.getpid()
        if user:
            _become(*user)
        posix.write(channel, READY)
        _exec(programs, arguments, environment)
    except OSError as error:
        posix.write(channel, b"%d" % (error.errno or 0))
    posix._exit(127)  # noqa: SLF001  # it is public in spite of its name


def _receive(channel: int) -> "Plan":
    data = b""
    while chunk := posix.read(channel, _CHUNK):
        data += chunk
    plan: Plan = marshal.loads(data)  # noqa: S302  # from the proxy, by a socket that nobody else has
    return plan


def _place(descriptors: list[int]) -> None:
    for number, descriptor in enumerate(descriptors, FIRST):
        posix.dup2(descriptor, number)  # the copy stays open over an exec
        posix.close(descriptor)


def _become(uid: int, gid: int, groups: list[int]) -> None:
    posix.setgroups(groups)
    posix.setresgid(gid, gid, gid)
    posix.setresuid(uid, uid, uid)


def _exec(programs: list[bytes], arguments: list[bytes], environment: dict[bytes, bytes]) -> None:
    """Raises OSError: of the first program that is there and cannot be run, else of the last one."""
    for number in (SIGPIPE, SIGXFSZ):
        signal(number, SIG_DFL)  # Python ignores them, and what is ignored stays so over an exec
    failure = last = None
    for program in programs:
        try:
            posix.execve(program, arguments, environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            last = error
        except OSError as error:
            failure = failure or error
    if found := failure or last:
        raise found


if __name__ == "__main__":
    main(int(sys.argv[1]))
