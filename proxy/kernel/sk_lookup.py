"""The program that chooses which socket gets a new TCP connection (Linux 5.9: Documentation/bpf/prog_sk_lookup.rst).

The kernel runs it for each packet to this network namespace that belongs to no connection yet, before it looks for a
listening socket by itself. One program does for all services; what it does is in five maps, in native byte order:

- `listeners`: family, port and address of a public listener → the service. Looked for with the packet's address first,
  then as a wildcard. The family is that of the packet: a listener for both needs an entry for each.
- `services`: the service → the slot of the generation that gets its connections, 0 for none. A change of it is the
  switch: the next connection goes to another generation.
- `slots`: how many sockets a generation has, and what an adopting process wants to know of it.
- `sockets`: the listening sockets themselves; one that is closed leaves by itself.
- `counters`: by slot, how many lookups found a socket and how many found none.

Whatever it does not find, it leaves to the kernel, so that an ordinary listener on the port gets the connection. It
counts lookups: there is one for each connection, and one for each packet that comes after its connection has ended.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

from proxy.kernel import bpf, bpffs, sk_lookup_program
from proxy.kernel.bpf import AttachType, BpfError, Link, Map, MapType

if TYPE_CHECKING:
    from pathlib import Path

LAYOUT = 1  # the version of all that is below: a process may adopt maps of its own version only
SERVICES = SLOTS = 256
LISTENERS = 1024
SOCKETS_PER_SLOT = sk_lookup_program.SOCKETS_PER_SLOT  # of each family
PROGRAM = "proxyctl"  # the program's name in the kernel

_LISTENER = struct.Struct("=II16s")  # family, port, address
_INDEX = struct.Struct("=I")
_SERVICE = struct.Struct("=I124s")  # current slot, name
_SLOT = struct.Struct("=IIIIII")  # sockets for IPv4, for IPv6, service, generation, mark, 0
_SOCKET = struct.Struct("=Q")  # a descriptor in, a cookie out
_COUNTS = struct.Struct("=QQ")  # steered, fallen

program = sk_lookup_program.program


class ServiceEntry(NamedTuple):
    """Where a service's connections go. `current`: a slot, or 0: the program leaves them alone."""

    current: int
    name: str

    def pack(self) -> bytes:
        """Raises ValueError for a name of more than 124 bytes."""
        name = self.name.encode()
        if len(name) > 124:
            raise ValueError(f"the service's name has {len(name)} bytes, and there is room for 124: {self.name}")
        return _SERVICE.pack(self.current, name)

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        current, name = _SERVICE.unpack(value)
        return cls(current, name.rstrip(b"\0").decode())


class Slot(NamedTuple):
    """One generation that can be steered to. `count4`, `count6`: sockets for IPv4 and IPv6 connections, from 0 on.

    `service`, `generation` and `mark` (SO_MARK of its sockets) are for whoever finds the map, not for the program.
    """

    count4: int
    count6: int
    service: int
    generation: int
    mark: int

    def pack(self) -> bytes:
        return _SLOT.pack(*self, 0)

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        return cls(*_SLOT.unpack(value)[:5])


class Counts(NamedTuple):
    """Lookups since the slot's counters were set to zero: that found a socket, and that found none."""

    steered: int
    fallen: int

    def pack(self) -> bytes:
        return _COUNTS.pack(*self)

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        return cls(*_COUNTS.unpack(value))


@dataclass(frozen=True)
class _Shape:
    kind: MapType
    key: int
    value: int
    entries: int
    flags: int = 0

    def fits(self, table: Map) -> bool:
        return (table.kind, table.key_size, table.value_size, table.entries) == (
            self.kind,
            self.key,
            self.value,
            self.entries,
        )


_SHAPES = {
    "listeners": _Shape(MapType.HASH, _LISTENER.size, _INDEX.size, LISTENERS, bpf.NO_PREALLOC),
    "services": _Shape(MapType.ARRAY, _INDEX.size, _SERVICE.size, SERVICES),
    "slots": _Shape(MapType.ARRAY, _INDEX.size, _SLOT.size, SLOTS),
    "sockets": _Shape(MapType.SOCKMAP, _INDEX.size, _SOCKET.size, SLOTS * 2 * SOCKETS_PER_SLOT),
    "counters": _Shape(MapType.ARRAY, _INDEX.size, _COUNTS.size, SLOTS),
}


@dataclass(frozen=True)
class Maps:
    """The five maps. Use it as a context manager, or close it."""

    listeners: Map
    services: Map
    slots: Map
    sockets: Map
    counters: Map

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The maps that are pinned there. BpfError: ENOENT: one is missing; EINVAL: not maps of this layout."""
        with contextlib.ExitStack() as opened:
            maps = {name: opened.enter_context(Map.open(folder / name)) for name in _SHAPES}
            for name, shape in _SHAPES.items():
                if not shape.fits(maps[name]):
                    raise BpfError(errno.EINVAL, f"use {folder / name}, which is a map of another layout")
            opened.pop_all()
        return cls(**maps)

    def pin(self, folder: Path) -> None:
        """Pin each under its own name in a folder for the owner alone, which is made. All of them, or none."""
        bpffs.make_folder(folder)
        with contextlib.ExitStack() as undo:
            for name in _SHAPES:
                table: Map = getattr(self, name)
                table.pin(folder / name)
                undo.callback((folder / name).unlink)
            undo.pop_all()

    def close(self) -> None:
        for name in _SHAPES:
            getattr(self, name).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_maps() -> Maps:
    """New maps, with nothing in them: nothing is steered."""
    with contextlib.ExitStack() as made:
        maps = {
            name: made.enter_context(
                Map.create(shape.kind, shape.key, shape.value, shape.entries, flags=shape.flags, name=name)
            )
            for name, shape in _SHAPES.items()
        }
        made.pop_all()
    return Maps(**maps)


def attach(maps: Maps, *, namespace: str = "/proc/self/ns/net") -> Link:
    """Load the program and put it to work in a network namespace, until the link and its pins are gone."""
    target = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        loaded = bpf.load(program(maps), name=PROGRAM)
        try:
            return Link.create(loaded, target, AttachType.SK_LOOKUP)
        finally:
            os.close(loaded)
    finally:
        os.close(target)


def listener_key(family: int, address: str, port: int) -> bytes:
    """A key of `listeners`: AF_INET or AF_INET6, an address of that family ("0.0.0.0" or "::" for any), a port."""
    return _LISTENER.pack(family, port, socket.inet_pton(family, address))


def parse_listener_key(key: bytes) -> tuple[int, str, int]:
    family, port, address = _LISTENER.unpack(key)
    return family, socket.inet_ntop(family, address if family == socket.AF_INET6 else address[:4]), port


def index(number: int) -> bytes:
    """A key of `services`, `slots`, `sockets` and `counters`, and the value of `listeners`."""
    return _INDEX.pack(number)


def parse_index(value: bytes) -> int:
    number: int = _INDEX.unpack(value)[0]
    return number


def socket_value(fd: int) -> bytes:
    """A value of `sockets`: the socket of this descriptor, which must listen. It may be closed afterwards."""
    return _SOCKET.pack(fd)


def socket_index(slot: int, family: int, position: int) -> int:
    """The number of a generation's socket in `sockets`; a socket of both families has one place under each."""
    return (slot * 2 + (family == socket.AF_INET6)) * SOCKETS_PER_SLOT + position
