"""What the kernel is told about steering, entry by entry: the maps of proxy/kernel/sk_lookup.py in control's words.

Each method that changes something changes one entry, and is one step for the connections that arrive meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Self

from proxy.kernel import bpffs, sk_lookup
from proxy.kernel.bpf import BpfError, Link
from proxy.kernel.sk_lookup import SERVICES, SLOTS, SOCKETS_PER_SLOT, Counts, ServiceEntry, Slot, index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxy.kernel.sk_lookup import Maps

__all__ = ["SERVICES", "SLOTS", "SOCKETS_PER_SLOT", "Counts", "ServiceEntry", "Slot", "SteerTable"]

_NOTHING = Slot(0, 0, 0, 0, 0)
_LINK = "link"  # the name of its pin


class SteerTable:
    """The maps in a folder of the bpf file system, and the program that goes by them as long as its link is there."""

    def __init__(self, maps: Maps, link: Link, pin: Path) -> None:
        self._maps = maps
        self._link = link
        self._pin = pin

    @classmethod
    def make(cls, folder: Path) -> Self:
        """Put a program in place that steers nothing yet, and pin it. Raises OSError; then nothing is left of it."""
        bpffs.remove_folder(folder)
        with contextlib.ExitStack() as undo:
            undo.callback(bpffs.remove_folder, folder)
            maps = undo.enter_context(sk_lookup.make_maps())
            maps.pin(folder)
            link = undo.enter_context(sk_lookup.attach(maps))
            link.pin(folder / _LINK)
            undo.pop_all()
        return cls(maps, link, folder / _LINK)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Find what another process made. Raises OSError where it is not there, not at work, or of another kind."""
        with contextlib.ExitStack() as undo:
            maps = undo.enter_context(sk_lookup.Maps.open(folder))
            link = undo.enter_context(Link.open(folder / _LINK))
            if not link.info().namespace:
                raise BpfError(errno.ENOLINK, f"use {folder / _LINK}: it is detached")
            undo.pop_all()
        return cls(maps, link, folder / _LINK)

    def close(self) -> None:
        """Let go of it. What is pinned stays."""
        self._link.close()
        self._maps.close()

    def detach(self) -> None:
        """Take the program out, and return when it steers nothing any more; the maps stay.

        Where bpf(2) is what does not work any more, it ends a moment after its pin.
        """
        with contextlib.suppress(OSError):
            self._link.detach()
        self._link.close()
        self._pin.unlink(missing_ok=True)

    def has_sockets(self) -> bool:
        """Whether any backend that it steers to still listens."""
        return any(
            self._maps.sockets.lookup(index(sk_lookup.socket_index(number, family, position))) is not None
            for number in range(1, SLOTS)
            for family, count in zip((socket.AF_INET, socket.AF_INET6), self.slot(number)[:2], strict=True)
            for position in range(count)
        )

    # Which service an address belongs to.

    def addresses(self) -> Iterator[tuple[tuple[int, str, int], int]]:
        """Each listener (family, host, port), and the number of its service."""
        for key in self._maps.listeners:
            if value := self._maps.listeners.lookup(key):
                yield sk_lookup.parse_listener_key(key), sk_lookup.parse_index(value)

    def point(self, listener: tuple[int, str, int], service: int) -> None:
        self._maps.listeners.update(sk_lookup.listener_key(*listener), index(service))

    def leave_alone(self, listener: tuple[int, str, int]) -> None:
        self._maps.listeners.delete(sk_lookup.listener_key(*listener))

    # Which generation a service's connections go to.

    def service(self, number: int) -> ServiceEntry:
        return ServiceEntry.unpack(self._maps.services.lookup(index(number)) or ServiceEntry(0, "").pack())

    def set_service(self, number: int, current: int, name: str) -> None:
        self._maps.services.update(index(number), ServiceEntry(current, name).pack())

    # Which sockets a generation has.

    def slot(self, number: int) -> Slot:
        return Slot.unpack(self._maps.slots.lookup(index(number)) or _NOTHING.pack())

    def set_slot(self, number: int, slot: Slot) -> None:
        self._maps.slots.update(index(number), slot.pack())

    def clear_slot(self, number: int) -> None:
        """Make room for another generation."""
        self.set_slot(number, _NOTHING)
        self._maps.counters.update(index(number), Counts(0, 0).pack())

    def put_socket(self, slot: int, family: int, position: int, descriptor: int) -> None:
        place = index(sk_lookup.socket_index(slot, family, position))
        self._maps.sockets.update(place, sk_lookup.socket_value(descriptor))

    def drop_socket(self, slot: int, family: int, position: int) -> None:
        """Nothing happens where it has left by itself."""
        self._maps.sockets.delete(index(sk_lookup.socket_index(slot, family, position)))

    def counts(self, slot: int) -> Counts:
        return Counts.unpack(self._maps.counters.lookup(index(slot)) or Counts(0, 0).pack())
