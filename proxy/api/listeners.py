"""The API's listening sockets: a Unix socket that only its owner may use, and TCP."""

from __future__ import annotations

import os
import socket
import stat
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from proxy.errors import AddressInUseError, ProxyError
from proxy.kernel import procfs
from proxy.kernel.unixpath import reachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxy.core.address import Address

_BACKLOG = 128


@contextmanager
def unix_listener(path: Path, opened: socket.socket | None = None) -> Iterator[socket.socket]:
    """Listen on `path` with mode 0600; the file goes when the block ends, unless another process has replaced it.

    One that is `opened` already, over an exec, is used as it is.

    A missing folder is made, with mode 0700. A file that a dead process left behind is replaced. Raises
    AddressInUseError if somebody answers there, ProxyError if the socket cannot be made.
    """
    try:
        if opened is None or _identity(path) is None:  # somebody may have removed the file
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _clear(path)
        listener = opened if opened and _identity(path) else _bind(path)
    except OSError as error:
        raise ProxyError(
            f"cannot listen on the control socket {path}: {error.strerror or error}",
            hint="admin.socket or --socket sets another path",
        ) from error
    with listener:
        ours = _identity(path)
        try:
            yield listener
        finally:
            if ours is not None and _identity(path) == ours:
                path.unlink(missing_ok=True)


@contextmanager
def tcp_listener(address: Address, opened: socket.socket | None = None) -> Iterator[socket.socket]:
    """Listen on an address, on the socket that is `opened` already if there is one. Raises AddressInUseError if it is
    taken.
    """
    if opened:
        with opened:
            yield opened
        return
    with socket.socket(address.family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            listener.bind(address.sockaddr)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise AddressInUseError(
                f"cannot listen on admin.listen = {address}: {error.strerror}",
                hint=f"who has it: ss -ltnp | grep {address}",
            ) from error
        yield listener


def _clear(path: Path) -> None:
    """Remove the socket file of a process that is gone."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise AddressInUseError(
            f"{path} exists and is not a socket", hint="remove it, or set another path with admin.socket or --socket"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, reachable(path) as name:
        probe.setblocking(False)  # a full backlog is an answer too: EAGAIN at once, instead of waiting for a place
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            owner = "a process that does not answer"
        else:
            owner = _owner(probe)
    raise AddressInUseError(
        f"the control socket {path} belongs to {owner}",
        hint="one proxy is enough for many services; for a second one set another admin.socket (or --socket)",
    )


def _owner(probe: socket.socket) -> str:
    """Who listens at the other end: SO_PEERCRED holds the process that called listen (unix(7))."""
    pid, _uid, _gid = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if not pid:
        return "a process of another pid namespace"
    command = procfs.command_line(pid)
    return f"pid {pid} ({command})" if command else f"pid {pid}"


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # before bind, which gives the file this mode: it is never open to others
        with reachable(path) as name:
            listener.bind(name)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
