"""Where a backend's $NOTIFY_SOCKET is: a path of its own, which it can reach, and hardly anyone else."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.control.output import safe_name
from proxy.control.readiness import Readiness
from proxy.errors import StartError
from proxy.logs import facts

if TYPE_CHECKING:
    from proxy.control.launch import User
    from proxy.control.mark import Mark

log = logging.getLogger(__name__)

_MAX_PATH = 107  # bytes, unix(7)
_PREFIX = "proxyctl-"


def bind(state_dir: Path, mark: Mark, user: User | None) -> Readiness:
    """A socket that the user may write to, and nobody else but root. Raises StartError."""
    name = _name(state_dir, mark)
    _remove(name)  # of a start that this one takes the place of
    stranger = user if os.geteuid() == 0 else None
    if not stranger and len(os.fsencode(name)) <= _MAX_PATH:
        with contextlib.suppress(OSError):  # the disk of the state folder is full, or read-only
            name.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return _readiness(name, name, _bind(name, None))
    try:
        return _bind_elsewhere(name, stranger)
    except OSError as error:
        raise StartError(f"cannot make room for the socket that a backend says READY=1 to: {error}") from error


def take_over(state_dir: Path, mark: Mark) -> Readiness | None:
    """That of a backend which an earlier control process started, and which has been ready; None where there is none.

    A new socket at the same path: what the backend says from now on is thrown away, but it is no error for it.
    """
    name = _name(state_dir, mark)
    try:
        path = _target(name)
        found = path.lstat()
        path.unlink()
        sock = _bind(path, (found.st_uid, found.st_gid) if os.geteuid() == 0 else None)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("a backend's $NOTIFY_SOCKET is not there any more", extra=facts(path=name, reason=error.strerror))
        return None
    readiness = _readiness(name, path, sock)
    readiness.settle()
    return readiness


def lost(state_dir: Path, mark: Mark) -> Readiness:
    """That of a backend which has been ready, and whose socket is gone."""
    name = _name(state_dir, mark)
    return Readiness(name, None, lambda: None, is_ready=True)


def _name(state_dir: Path, mark: Mark) -> Path:
    return state_dir / "sockets" / f"{safe_name(mark.service)}.{mark.generation}.{mark.replica}.notify"


def _bind_elsewhere(name: Path, user: User | None) -> Readiness:
    """In a folder of its own under the temporary one, to which the name is a link then. Another user has no business in
    `state_dir`, and a path can be too long there.
    """
    path = _own_folder(user) / "notify"
    try:
        with contextlib.suppress(OSError):
            name.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            name.symlink_to(path)
        return _readiness(name, path, _bind(path, (user.uid, user.gid) if user else None))
    except OSError:
        _discard(path)
        raise


def _own_folder(user: User | None) -> Path:
    """It stays ours, so that nobody can put another socket in the place of the one in it."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    if len(os.fsencode(folder)) > _MAX_PATH - 7:  # TMPDIR itself is long
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))  # mkdtemp makes it 0700
    if user:
        folder.chmod(0o711)
    return folder


def _bind(path: Path, owner: tuple[int, int] | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.bind(str(path))
        path.chmod(0o600)
        if owner:
            os.chown(path, *owner, follow_symlinks=False)
    except OSError:
        sock.close()
        raise
    return sock


def _target(name: Path) -> Path:
    """What the name leads to: itself, or a path in a folder of ours. Raises OSError."""
    if not name.is_symlink():
        return name
    path = Path(os.readlink(name))
    folder = path.parent.lstat()
    if not path.parent.name.startswith(_PREFIX) or folder.st_uid != os.geteuid() or path.parent.is_symlink():
        raise FileNotFoundError(f"{path.parent} is not ours")  # temporary folders are emptied, and filled by others
    return path


def _readiness(name: Path, path: Path, sock: socket.socket) -> Readiness:
    return Readiness(path, sock, partial(_remove_both, name, path))


def _remove_both(name: Path, path: Path) -> None:
    _discard(path)
    with contextlib.suppress(OSError):
        name.unlink(missing_ok=True)


def _remove(name: Path) -> None:
    path = name
    with contextlib.suppress(OSError):  # a link of which nothing is left, say
        path = _target(name)
    _remove_both(name, path)


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        if path.parent.name.startswith(_PREFIX):
            path.parent.rmdir()
    except OSError as error:
        log.warning("a backend's $NOTIFY_SOCKET cannot be removed", extra=facts(path=path, reason=error.strerror))
