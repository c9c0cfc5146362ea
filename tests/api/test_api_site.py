"""Who counts as one, however many addresses they have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.site import site_of


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_itself_in_every_spelling(address: str) -> None:
    assert site_of(address) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("203.0.113.9", "::ffff:203.0.113.9"),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
        ("fe80::1%eth0", "fe80::2"),
    ],
)
def test_one_place_is_one(one: str, other: str) -> None:
    assert site_of(one) == site_of(other) != ""


@pytest.mark.parametrize(("one", "other"), [("203.0.113.9", "203.0.113.8"), ("2001:db8:1:2::1", "2001:db8:1:3::1")])
def test_neighbours_are_two(one: str, other: str) -> None:
    assert site_of(one) != site_of(other)


@given(st.text() | st.ip_addresses().map(str))
def test_whatever_stands_for_an_address_is_a_site(address: str) -> None:
    assert site_of(site_of(address)) is not None
