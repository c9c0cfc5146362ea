"""bpf(2) itself, its errors, and what the things behind its descriptors have in common.

There is no function for it in the C library, so that the system call's number is needed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}  # asm/unistd_64.h; the others: asm-generic/unistd.h
_NAME_SIZE = 16  # BPF_OBJ_NAME_LEN, with the NUL at the end

# The members of union bpf_attr (linux/bpf.h) that commands read.
_PATH = struct.Struct("=QII")  # path, descriptor, flags
_INFO = struct.Struct("=IIQ")  # descriptor, length, address of what is filled in


class Command(IntEnum):
    """enum bpf_cmd."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_GET_NEXT_ID = 11
    PROG_GET_FD_BY_ID = 13
    OBJ_GET_INFO_BY_FD = 15
    LINK_CREATE = 28
    LINK_DETACH = 34


class BpfError(OSError):
    """The kernel refused. `log` is what its verifier said about a program, and empty elsewhere."""

    def __init__(self, number: int, doing: str, *, log: str = "") -> None:
        super().__init__(number, os.strerror(number))
        self.doing = doing
        self.log = log

    def __str__(self) -> str:
        said = f"; the verifier says:\n{self.log}" if self.log else ""
        return f"cannot {self.doing}: {self.strerror}{said}"


class Descriptor:
    """A descriptor of a map or a link, and its name in a BPF file system. A context manager that closes it."""

    _kind = ""  # a part of what /proc/self/fd calls one: bpf-map; bpf_link when it is made, bpf-link when it is opened

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def pin(self, path: Path) -> None:
        """Give it a name (mode 0600) that keeps it alive. There must be no dot in the path's last part.

        EEXIST: the name is taken; EPERM: not a BPF file system.
        """
        name = ctypes.create_string_buffer(os.fsencode(path))
        attributes = _PATH.pack(ctypes.addressof(name), self.fd, 0)
        bpf(Command.OBJ_PIN, attributes, f"pin at {path}")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def _opened(cls, path: Path) -> int:
        """A descriptor of what is pinned there. ENOENT: nothing is; EINVAL: something else."""
        name = ctypes.create_string_buffer(os.fsencode(path))
        fd = bpf(Command.OBJ_GET, _PATH.pack(ctypes.addressof(name), 0, 0), f"open {path}")
        # A descriptor of any kind is handed out, and each kind describes itself in a structure of its own.
        if cls._kind not in os.readlink(f"/proc/self/fd/{fd}"):
            os.close(fd)
            raise BpfError(errno.EINVAL, f"open {path} as a {cls.__name__.lower()}")
        return fd


def bpf(command: Command, attributes: bytes, doing: str) -> int:
    return bpf_in_place(command, ctypes.create_string_buffer(attributes, len(attributes)), doing)


def bpf_in_place(command: Command, attributes: ctypes.Array[ctypes.c_char], doing: str) -> int:
    """bpf(2). Returns a descriptor, or 0. EAGAIN (the verifier was interrupted) is not the caller's business."""
    number = _SYSCALL.get(os.uname().machine)
    if number is None or sys.maxsize < 1 << 32:
        raise BpfError(errno.ENOSYS, doing)
    while True:
        result: int = _syscall(number, command, ctypes.addressof(attributes), len(attributes))
        if result >= 0:
            return result
        if ctypes.get_errno() != errno.EAGAIN:
            raise BpfError(ctypes.get_errno(), doing)


def info(fd: int, layout: struct.Struct) -> tuple[Any, ...]:
    """What the kernel says of a descriptor: the beginning of bpf_map_info, bpf_prog_info or bpf_link_info."""
    filled = ctypes.create_string_buffer(layout.size)
    bpf(Command.OBJ_GET_INFO_BY_FD, _INFO.pack(fd, layout.size, ctypes.addressof(filled)), "describe a descriptor")
    return layout.unpack(filled.raw)


def packed_name(name: str) -> bytes:
    if len(name) >= _NAME_SIZE:
        raise ValueError(f"names have {_NAME_SIZE - 1} characters at most: {name!r}")
    return name.encode("ascii")


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_long]
_syscall.restype = ctypes.c_long
