"""Guessing a token must take for ever, and cost nobody else anything."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from proxy.api import slowdown
from proxy.api.slowdown import FIRST, LONGEST, MEMORY, WAITING, Slowdown

GUESSER, OTHER = "203.0.113.5", "203.0.113.6"


async def took(slow: Slowdown, address: str) -> float:
    began = trio.current_time()
    await slow.failed(address)
    return trio.current_time() - began


async def test_each_failure_takes_longer_than_the_one_before_up_to_a_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow = Slowdown()
    waits = [await took(slow, GUESSER) for _ in range(8)]
    assert waits[:3] == pytest.approx([FIRST, 2 * FIRST, 4 * FIRST])
    assert waits[-1] == pytest.approx(LONGEST)
    assert await took(slow, OTHER) == pytest.approx(FIRST)


async def test_who_has_mistyped_once_is_forgiven(autojump_clock: trio.testing.MockClock) -> None:
    slow = Slowdown()
    for _ in range(5):
        await slow.failed(GUESSER)
    await trio.sleep(MEMORY + 1)
    assert await took(slow, GUESSER) == pytest.approx(FIRST)


async def test_many_guesses_at_once_are_not_even_looked_at(autojump_clock: trio.testing.MockClock) -> None:
    slow = Slowdown()
    async with trio.open_nursery() as nursery:
        for _ in range(WAITING):
            assert slow.refuses(GUESSER) == 0
            nursery.start_soon(slow.failed, GUESSER)
        await trio.testing.wait_all_tasks_blocked()
        assert slow.refuses(GUESSER) >= 1
        assert slow.refuses(OTHER) == 0
    assert slow.refuses(GUESSER) == 0


async def test_a_client_that_leaves_while_it_waits_gives_its_place_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow = Slowdown()
    for _ in range(3 * WAITING):
        with trio.move_on_after(0.01):
            await slow.failed(GUESSER)
    assert slow.refuses(GUESSER) == 0


async def test_a_customer_with_many_ipv6_addresses_is_one(autojump_clock: trio.testing.MockClock) -> None:
    slow = Slowdown()
    await slow.failed("2001:db8:1:2::1")
    assert await took(slow, "2001:db8:1:2:ffff::2") == pytest.approx(2 * FIRST)
    assert await took(slow, "2001:db8:1:3::1") == pytest.approx(FIRST)
    await slow.failed("::ffff:203.0.113.9")
    assert await took(slow, "203.0.113.9") == pytest.approx(2 * FIRST)


async def test_a_crowd_of_guessers_fills_no_memory(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slowdown, "_ADDRESSES", 10)
    slow = Slowdown()
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(slow.failed, f"198.51.100.{number}")
    assert len(slow._known) == 10


@given(st.text())
def test_whatever_stands_for_an_address_is_one(address: str) -> None:
    assert Slowdown().refuses(address) == 0
