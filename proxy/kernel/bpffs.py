"""The BPF file system, where maps and links get names that outlive the process that made them (bpf(2), BPF_OBJ_PIN).

systemd mounts it at /sys/fs/bpf; where nobody did, `mount` does what `mount -t bpf bpf /sys/fs/bpf` would.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

pin_folder_root = Path("/sys/fs/bpf/proxyctl")

_MAGIC = 0xCAFE4A11  # BPF_FS_MAGIC, linux/magic.h
_STATFS_SIZE = 256  # struct statfs has 120 bytes; its first member is the type of the file system, a long

_NOSUID, _NODEV, _NOEXEC = 0x2, 0x4, 0x8  # MS_NOSUID …, mount(2)

_libc = ctypes.CDLL(None, use_errno=True)
_statfs, _mount = _libc.statfs, _libc.mount
_statfs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
_mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def is_mounted(path: Path = pin_folder_root.parent) -> bool:
    """Whether what is at the path belongs to a BPF file system (statfs(2))."""
    answer = ctypes.create_string_buffer(_STATFS_SIZE)
    if _statfs(os.fsencode(path), ctypes.addressof(answer)) != 0:
        return False
    return ctypes.c_ulong.from_buffer(answer).value == _MAGIC


def mount(path: Path = pin_folder_root.parent) -> None:
    """Mount one there, as systemd and bpftool do. Raises OSError: EPERM without CAP_SYS_ADMIN (mount(2))."""
    if _mount(b"bpf", os.fsencode(path), b"bpf", _NOSUID | _NODEV | _NOEXEC, b"mode=0700") != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(path))


def make_folder(path: Path) -> None:
    """Make a folder that only its owner can look into, and those above it, as far as they are missing."""
    if not path.parent.exists():
        make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)


def remove_folder(path: Path) -> None:
    """Take away a folder of pins, with every pin in it.

    What nothing else holds ends a moment later: detach a link before, if its program is to stop now.
    """
    with contextlib.suppress(FileNotFoundError):
        for pin in list(path.iterdir()):
            pin.unlink(missing_ok=True)
        path.rmdir()
