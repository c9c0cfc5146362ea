from __future__ import annotations

import socket

import pytest

from proxy.kernel import sk_lookup
from proxy.kernel.sk_lookup import ServiceEntry, Slot

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.mark.parametrize(("family", "address"), [(V4, "10.1.2.3"), (V4, "0.0.0.0"), (V6, "fe80::1"), (V6, "::")])
def test_keys_and_values_say_the_same_both_ways(family, address) -> None:
    key = sk_lookup.listener_key(family, address, 443)
    assert len(key) == 24
    assert sk_lookup.parse_listener_key(key) == (family, address, 443)
    slot = Slot(3, 64, 200, 70_000, 0xFFFFFFFF)
    assert Slot.unpack(slot.pack()) == slot
    entry = ServiceEntry(255, "grün")
    assert ServiceEntry.unpack(entry.pack()) == entry
    assert sk_lookup.parse_index(sk_lookup.index(255)) == 255
    with pytest.raises(ValueError, match="room for 124"):
        ServiceEntry(1, "ü" * 63).pack()


def test_no_two_sockets_share_a_place() -> None:
    each = [
        sk_lookup.socket_index(slot, family, position)
        for slot in range(sk_lookup.SLOTS)
        for family in (V4, V6)
        for position in range(sk_lookup.SOCKETS_PER_SLOT)
    ]
    assert each == list(range(256 * 2 * 64))
