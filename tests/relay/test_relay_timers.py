"""Timers: in order, cancelled ones never, and no memory for those that were cancelled."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from proxy.relay.timers import Timer, Timers


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans())), st.integers(0, 20))
def test_what_is_due_is_called_in_order_unless_cancelled(wanted: list[tuple[int, bool]], now: int) -> None:
    timers, called = Timers(), []
    set_ = [(when, timers.at(when, lambda when=when: called.append(when)), cancel) for when, cancel in wanted]
    for _, timer, cancel in set_:
        if cancel:
            timer.cancel()
    timers.fire(now)
    assert called == sorted(when for when, cancel in wanted if when <= now and not cancel)
    assert len(timers) == sum(when > now and not cancel for when, cancel in wanted)


def test_what_a_timer_sets_for_now_is_not_called_at_once() -> None:
    """Else a timer that sets itself again would never let the loop go on."""
    timers, called = Timers(), []

    def again() -> None:
        called.append(1)
        timers.at(0, again)

    timers.at(0, again)
    timers.fire(0)
    assert called == [1]
    timers.fire(0)
    assert called == [1, 1]


def test_a_timer_may_cancel_another_that_is_due() -> None:
    timers, called = Timers(), []
    victims: list[Timer] = []
    timers.at(0, lambda: victims.pop().cancel())
    victims.append(timers.at(0, lambda: called.append(1)))
    timers.fire(0)
    assert called == []
    assert len(timers) == 0


def test_cancelling_twice_counts_once() -> None:
    timers = Timers()
    timer = timers.at(1, print)
    timer.cancel()
    timer.cancel()
    assert len(timers) == 0
    timers.at(1, print)
    assert len(timers) == 1


def test_cancelled_timers_do_not_pile_up() -> None:
    """A busy proxy sets one for each connection, an hour ahead, and cancels it a millisecond later."""
    timers = Timers()
    keep = timers.at(3600, print)
    for _ in range(10_000):
        timers.at(3600, print).cancel()
    assert sys.getsizeof(timers._heap) < 10_000
    assert timers.next == 3600
    keep.cancel()
    assert len(timers) == 0


def test_a_cancelled_timer_lets_go_of_what_it_would_have_called() -> None:
    timers, thing = Timers(), [1]
    before = sys.getrefcount(thing)
    timer = timers.at(3600, lambda: thing)
    timer.cancel()
    assert timer.action is None
    assert sys.getrefcount(thing) == before
