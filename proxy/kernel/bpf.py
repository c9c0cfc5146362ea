"""Maps, programs and links of the kernel's BPF machine: bpf(2), called as it is, without libbpf and without a compiler.

Everything that the call makes is a descriptor, closed on exec; the thing itself lives until its last descriptor, and
its last name in a BPF file system ("pin"), are gone. CAP_BPF and CAP_NET_ADMIN (Linux 5.8) allow all that is used
here but the listing of programs, which asks for CAP_SYS_ADMIN. Linux before 5.11 counts maps against RLIMIT_MEMLOCK.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Self

from proxy.kernel import bpf_assembly
from proxy.kernel.bpf_syscall import BpfError, Command, Descriptor, bpf, bpf_in_place, info, packed_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from proxy.kernel.bpf_assembly import Instruction

__all__ = [
    "NO_PREALLOC",
    "AttachType",
    "BpfError",
    "Link",
    "LinkInfo",
    "Map",
    "MapType",
    "ProgramType",
    "load",
    "programs",
]

_LOG_SIZE = 1 << 20
# None of the helpers that are called is for programs under the GPL alone, so that the proxy's own licence will do.
_LICENCE = b"Apache-2.0\0"

# The members of union bpf_attr (linux/bpf.h) that each command reads; what the kernel knows beyond them counts as zero.
_MAP_CREATE = struct.Struct("=IIIIIII16s")  # type, key size, value size, entries, flags, inner map, NUMA node, name
_ELEMENT = struct.Struct("=I4xQQQ")  # map, key, value or next key, flags
_PROGRAM_LOAD = struct.Struct("=IIQQIIQII16sII")  # type, count, instructions, licence, log level, log size, log,
# … kernel version, flags, name, interface, expected attach type
_LINK_CREATE = struct.Struct("=IIII")  # program, target, attach type, flags
_ID = struct.Struct("=III")  # id (to start from), next id, flags

_MAP_INFO = struct.Struct("=I4xIII4x16s")  # bpf_map_info: type, key size, value size, entries, name
_PROGRAM_INFO = struct.Struct("=64x16s")  # bpf_prog_info: name
_LINK_INFO = struct.Struct("=III4xII")  # bpf_link_info: type, id, program id; of a namespace's: inode, attach type

NO_PREALLOC = 1  # BPF_F_NO_PREALLOC: entries of a hash take memory when they are made


class MapType(IntEnum):
    """enum bpf_map_type."""

    HASH = 1
    ARRAY = 2
    SOCKMAP = 15


class ProgramType(IntEnum):
    """enum bpf_prog_type."""

    SK_LOOKUP = 30  # Linux 5.9


class AttachType(IntEnum):
    """enum bpf_attach_type."""

    SK_LOOKUP = 36


class Map(Descriptor):
    """A map; keys and values are bytes of `key_size` and `value_size`."""

    _kind = "map"

    def __init__(self, fd: int) -> None:
        """Own the descriptor, and ask the kernel what it is of."""
        super().__init__(fd)
        kind, self.key_size, self.value_size, self.entries, name = info(fd, _MAP_INFO)
        self.kind: int = kind
        self.name: str = name.rstrip(b"\0").decode()

    @classmethod
    def create(cls, kind: MapType, key: int, value: int, entries: int, *, flags: int = 0, name: str = "") -> Self:
        """Make a map of `entries` at most; sizes in bytes. `name`: 15 letters, digits, `_` and `.` at most."""
        attributes = _MAP_CREATE.pack(kind, key, value, entries, flags, 0, 0, packed_name(name))
        return cls(bpf(Command.MAP_CREATE, attributes, f"make the map {name}"))

    @classmethod
    def open(cls, path: Path) -> Self:
        return cls(cls._opened(path))

    def lookup(self, key: bytes) -> bytes | None:
        """A copy of the value; of an entry of a SOCKMAP with values of eight bytes, the socket's cookie (SO_COOKIE)."""
        value = ctypes.create_string_buffer(self.value_size)
        try:
            self._element(Command.MAP_LOOKUP_ELEM, key, ctypes.addressof(value))
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise
            return None
        return value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """Set the value, whether there is one or not (BPF_ANY). Into a SOCKMAP goes a socket's descriptor.

        E2BIG: the map is full, or is an array that has no such entry.
        """
        if len(value) != self.value_size:
            raise ValueError(f"values of {self.name} have {self.value_size} bytes, not {len(value)}")
        given = ctypes.create_string_buffer(value, len(value))
        self._element(Command.MAP_UPDATE_ELEM, key, ctypes.addressof(given))

    def delete(self, key: bytes) -> bool:
        """Take an entry out; False: there was none. Entries of an array cannot be taken out (EINVAL)."""
        try:
            self._element(Command.MAP_DELETE_ELEM, key, 0)
        except BpfError as error:
            # A SOCKMAP says of an empty place what an array says of every place.
            nothing = {errno.ENOENT, errno.EINVAL} if self.kind == MapType.SOCKMAP else {errno.ENOENT}
            if error.errno not in nothing:
                raise
            return False
        return True

    def __iter__(self) -> Iterator[bytes]:
        """Every key, once; of what comes and goes meanwhile, some.

        After a key that is gone by now the kernel begins again with the first: those seen already are passed over.
        """
        seen: set[bytes] = set()
        key: bytes | None = None
        following = ctypes.create_string_buffer(self.key_size)
        while True:
            try:
                self._element(Command.MAP_GET_NEXT_KEY, key, ctypes.addressof(following))
            except BpfError as error:
                if error.errno != errno.ENOENT:
                    raise
                return
            key = following.raw
            if key not in seen:
                seen.add(key)
                yield key

    def _element(self, command: Command, key: bytes | None, value: int) -> None:
        if key is not None and len(key) != self.key_size:
            raise ValueError(f"keys of {self.name} have {self.key_size} bytes, not {len(key)}")
        given = None if key is None else ctypes.create_string_buffer(key, len(key))
        attributes = _ELEMENT.pack(self.fd, 0 if given is None else ctypes.addressof(given), value, 0)
        bpf(command, attributes, f"{command.name.split('_')[1].lower()} an entry of {self.name}")


class LinkInfo(NamedTuple):
    """What a link connects. `namespace`: the inode of /proc/PID/ns/net; 0 once that is gone, or the link detached."""

    id: int
    program: int
    namespace: int
    attach_type: int


class Link(Descriptor):
    """A program at work: while this, or a pin of it, exists (Linux 5.7; for network namespaces 5.8)."""

    _kind = "link"

    @classmethod
    def create(cls, program_fd: int, target_fd: int, attach_type: AttachType) -> Self:
        """Put the program to work in a target, such as a network namespace. The program's descriptor can be closed."""
        attributes = _LINK_CREATE.pack(program_fd, target_fd, attach_type, 0)
        return cls(bpf(Command.LINK_CREATE, attributes, f"attach the program as {attach_type.name}"))

    @classmethod
    def open(cls, path: Path) -> Self:
        return cls(cls._opened(path))

    def info(self) -> LinkInfo:
        _, number, program, namespace, attach_type = info(self.fd, _LINK_INFO)
        return LinkInfo(number, program, namespace, attach_type)

    def detach(self) -> None:
        """End the program's work now, whoever else holds or has pinned the link (Linux 5.9).

        Without it the work ends a moment after the last descriptor and pin are gone: the kernel lets go of pins later.
        """
        bpf(Command.LINK_DETACH, struct.pack("=I", self.fd), "detach the program")


def load(
    instructions: Sequence[Instruction],
    kind: ProgramType = ProgramType.SK_LOOKUP,
    attach: AttachType = AttachType.SK_LOOKUP,
    *,
    name: str,
) -> int:
    """Have the kernel verify and compile a program; return its descriptor. BpfError has the verifier's log."""
    try:
        return _load(instructions, kind, attach, name, None)
    except BpfError as error:
        if error.errno not in {errno.EACCES, errno.EINVAL, errno.E2BIG}:
            raise  # the verifier did not get to see it
    # Asked again, since to write the log costs time and memory, and can itself fail.
    log = ctypes.create_string_buffer(_LOG_SIZE)
    try:
        return _load(instructions, kind, attach, name, log)
    except BpfError as error:
        raise BpfError(error.errno or 0, error.doing, log=log.value.decode(errors="replace").strip()) from None


def programs(name: str) -> list[int]:
    """The ids of the programs of that name in the kernel, whoever loaded them. Needs CAP_SYS_ADMIN."""
    return [number for number in _program_ids() if _program_name(number) == name]


def _load(
    instructions: Sequence[Instruction],
    kind: ProgramType,
    attach: AttachType,
    name: str,
    log: ctypes.Array[ctypes.c_char] | None,
) -> int:
    code = bpf_assembly.encode(instructions)
    given, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(_LICENCE)
    addresses = len(code) // 8, ctypes.addressof(given), ctypes.addressof(licence)
    logging = (0, 0, 0) if log is None else (1, len(log), ctypes.addressof(log))
    attributes = _PROGRAM_LOAD.pack(kind, *addresses, *logging, 0, 0, packed_name(name), 0, attach)
    return bpf(Command.PROG_LOAD, attributes, f"load the program {name}")


def _program_ids() -> Iterator[int]:
    number = 0
    while True:
        attributes = ctypes.create_string_buffer(_ID.pack(number, 0, 0), _ID.size)
        try:
            bpf_in_place(Command.PROG_GET_NEXT_ID, attributes, "list programs")
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise
            return
        number = _ID.unpack(attributes.raw)[1]
        yield number


def _program_name(number: int) -> str | None:
    """None: it is gone by now."""
    try:
        fd = bpf(Command.PROG_GET_FD_BY_ID, _ID.pack(number, 0, 0), f"open program {number}")
    except BpfError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
    with contextlib.closing(Descriptor(fd)):
        (name,) = info(fd, _PROGRAM_INFO)
    return str(name.rstrip(b"\0").decode())
