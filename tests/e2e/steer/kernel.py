"""What the kernel holds: bpf(2), asked without the product's own code, and ss."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

BPFFS = Path("/sys/fs/bpf")
PINS = BPFFS / "proxyctl"

_BPF = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), 321)
_MAP_LOOKUP, _MAP_GET_NEXT_KEY, _OBJ_GET = 1, 4, 7
_PROG_GET_NEXT_ID, _PROG_GET_FD_BY_ID, _MAP_GET_FD_BY_ID = 11, 13, 14
_OBJ_GET_INFO_BY_FD, _LINK_GET_FD_BY_ID, _LINK_GET_NEXT_ID = 15, 30, 31
_SK_LOOKUP = 30  # BPF_PROG_TYPE_SK_LOOKUP
_HASH, _ARRAY = 1, 2  # BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Steering:
    """A program that steers a port, with what belongs to it, by the kernel's ids."""

    program: int
    maps: frozenset[int]
    links: frozenset[int]
    pins: frozenset[Path]

    def remove(self) -> None:
        for pin in self.pins:
            pin.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                pin.parent.rmdir()

    def is_gone(self) -> bool:
        """Whether nothing of it is left, under no name."""
        return not (
            _has(_PROG_GET_FD_BY_ID, {self.program})
            or _has(_MAP_GET_FD_BY_ID, self.maps)
            or _has(_LINK_GET_FD_BY_ID, self.links)
            or any(pin.exists() or pin.parent.exists() for pin in self.pins)
        )


def steerings(port: int) -> list[Steering]:
    """Every sk_lookup program of this machine that has the port among its listeners."""
    found = []
    pinned = {path: identity for path in PINS.glob("**/*") if (identity := _pinned(path))}
    links = {link: struct.unpack_from("=I", _info("link", link), 8)[0] for link in _ids(_LINK_GET_NEXT_ID)}
    for program in _ids(_PROG_GET_NEXT_ID):
        with contextlib.suppress(FileNotFoundError):
            maps = _maps_of(program)
            if any(port in _ports_in(each) for each in maps):
                own = frozenset(link for link, of in links.items() if of == program)
                things = {("map", each) for each in maps} | {("link", each) for each in own} | {("prog", program)}
                pins = frozenset(path for path, identity in pinned.items() if identity in things)
                found.append(Steering(program, frozenset(maps), own, pins))
    return found


def is_steered(port: int) -> bool:
    """Whether new connections to the port go to some generation."""
    for steering in steerings(port):
        maps = {_kind_of(each): each for each in steering.maps}
        listeners, services = maps[_HASH, 24], maps[_ARRAY, 4]
        for key in _keys(listeners):
            if struct.unpack_from("=I", key, 4)[0] == port:
                return _value(services, _value(listeners, key, 4), 128)[:4] != bytes(4)
    return False


def _bpf(command: int, layout: str, *values: int) -> bytes:
    """Make the call; returns its attributes as the kernel has left them, with the result in the last 8 bytes."""
    attributes = ctypes.create_string_buffer(struct.pack(layout, *values).ljust(128, b"\0"), 128)
    result: int = _libc.syscall(_BPF, command, ctypes.byref(attributes), 128)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return attributes.raw[:120] + struct.pack("=q", result)


def _descriptor(command: int, layout: str, *values: int) -> int:
    descriptor: int = struct.unpack("=q", _bpf(command, layout, *values)[120:])[0]
    return descriptor


def _ids(command: int) -> Iterator[int]:
    last = 0
    with contextlib.suppress(FileNotFoundError):
        while True:
            last = struct.unpack_from("=I", _bpf(command, "=I", last), 4)[0]
            yield last


def _has(command: int, ids: Collection[int]) -> bool:
    for each in ids:
        with contextlib.suppress(FileNotFoundError):
            os.close(_descriptor(command, "=I", each))
            return True
    return False


def _info(kind: str, identity: int, first: bytes = b"") -> bytes:
    """bpf_prog_info, bpf_map_info or bpf_link_info, which begins as `first`; zeros for a link that has just gone."""
    command = {"prog": _PROG_GET_FD_BY_ID, "map": _MAP_GET_FD_BY_ID, "link": _LINK_GET_FD_BY_ID}[kind]
    try:
        descriptor = _descriptor(command, "=I", identity)
    except FileNotFoundError:
        if kind == "link":
            return bytes(64)
        raise
    try:
        return _info_of(descriptor, first)
    finally:
        os.close(descriptor)


def _info_of(descriptor: int, first: bytes = b"") -> bytes:
    buffer = ctypes.create_string_buffer(first.ljust(80, b"\0"), 80)
    _bpf(_OBJ_GET_INFO_BY_FD, "=IIQ", descriptor, 80, ctypes.addressof(buffer))
    return buffer.raw


def _maps_of(program: int) -> set[int]:
    maps = (ctypes.c_uint32 * 64)()
    first = bytes(52) + struct.pack("=IQ", 64, ctypes.addressof(maps))  # nr_map_ids, map_ids
    info = _info("prog", program, first)
    kind, _ = struct.unpack_from("=II", info)
    return set(maps[: struct.unpack_from("=I", info, 52)[0]]) if kind == _SK_LOOKUP else set()


def _ports_in(number: int) -> set[int]:
    """The ports of a map from listeners to services: family, port (u32 each) and 16 bytes of address are its keys."""
    if _kind_of(number) != (_HASH, 24):
        return set()
    return {struct.unpack_from("=I", key, 4)[0] for key in _keys(number)}


def _kind_of(number: int) -> tuple[int, int]:
    """A map's type, and the size of its keys; of arrays, whose keys are numbers all, the one with the names apart."""
    kind, _, key_size, value_size = struct.unpack_from("=IIII", _info("map", number))
    return kind, key_size if kind == _HASH or value_size == 128 else 0


def _keys(number: int) -> list[bytes]:
    descriptor = _descriptor(_MAP_GET_FD_BY_ID, "=I", number)
    key, after = ctypes.create_string_buffer(24), ctypes.create_string_buffer(24)
    found: list[bytes] = []
    try:
        while True:
            before = ctypes.addressof(key) if found else 0
            _bpf(_MAP_GET_NEXT_KEY, "=I4xQQ", descriptor, before, ctypes.addressof(after))
            key.raw = after.raw
            found.append(after.raw)
    except FileNotFoundError:
        return found
    finally:
        os.close(descriptor)


def _value(number: int, key: bytes, size: int) -> bytes:
    """What a map has at a key; zeros if nothing."""
    descriptor = _descriptor(_MAP_GET_FD_BY_ID, "=I", number)
    name, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    try:
        with contextlib.suppress(FileNotFoundError):
            _bpf(_MAP_LOOKUP, "=I4xQQ", descriptor, ctypes.addressof(name), ctypes.addressof(value))
        return value.raw
    finally:
        os.close(descriptor)


def _pinned(path: Path) -> tuple[str, int] | None:
    """What is pinned there: "map", "prog" or "link", and its id; None for a folder, and for what has just gone."""
    name = ctypes.create_string_buffer(bytes(path))
    try:
        descriptor = _descriptor(_OBJ_GET, "=Q", ctypes.addressof(name))
    except OSError:
        return None
    try:
        kind = os.readlink(f"/proc/self/fd/{descriptor}").replace("_", "-").rpartition("bpf-")[2]
        return kind, struct.unpack_from("=I", _info_of(descriptor), 4)[0]
    finally:
        os.close(descriptor)


def marked(port: int) -> int:
    """How many TCP connections with this port of ours bear a mark, as ss shows them."""
    ss = need("ss", package="iproute2")
    shown = subprocess.run([ss, "-Htane", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    return sum("fwmark:" in line for line in shown.splitlines() if not line.startswith("TIME-WAIT"))
