"""Private paths for backends that listen on Unix sockets (`{socket}`)."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.control.output import safe_name
from proxy.errors import StartError
from proxy.logs import facts

if TYPE_CHECKING:
    from proxy.control.launch import User
    from proxy.core.address import Address

log = logging.getLogger(__name__)

_MAX_PATH = 107  # bytes, unix(7)
_PREFIX = "proxyctl-"


def make_path(state_dir: Path, service: str, generation: int, replica: int, user: User | None) -> Path:
    """A path that a backend can bind to: its folder exists, it does not.

    It is in a folder of its own under the temporary one where the usual path is too long, and where another user
    is to create the socket, who has no business in `state_dir`.

    Raises StartError where none can be made.
    """
    try:
        try:
            return _make_path(state_dir, service, generation, replica, user)
        except OSError:  # the disk of the state folder is full, or read-only
            return _in_own_folder(user)
    except OSError as error:
        raise StartError(f"cannot make room for the socket of a backend: {error}") from error


def _make_path(state_dir: Path, service: str, generation: int, replica: int, user: User | None) -> Path:
    path = state_dir / "sockets" / f"{safe_name(service)}.{generation}.{replica}.sock"
    if user or len(os.fsencode(path)) > _MAX_PATH:
        return _in_own_folder(user)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


def remove(address: Address) -> None:
    """Remove the socket, with its folder if that was its own; a TCP address has nothing to remove."""
    if not address.is_unix:
        return
    path = Path(address.path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # the folder is the backend's to use: it may have put anything there
        log.warning("a backend's socket cannot be removed", extra=facts(path=path, reason=error.strerror))
    if path.parent.name.startswith(_PREFIX):
        with contextlib.suppress(OSError):  # whatever else the backend put there is its own
            path.parent.rmdir()


def _in_own_folder(user: User | None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    if len(os.fsencode(folder)) > _MAX_PATH - 5:  # TMPDIR itself is long
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))  # mkdtemp makes it 0700
    if user and os.geteuid() == 0:
        os.chown(folder, user.uid, user.gid)
    return folder / "sock"
