from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.backoff import Backoff


def test_a_backend_that_crashes_at_once_is_started_less_and_less_often() -> None:
    backoff = Backoff(first=0.1, limit=1.0)
    assert [round(backoff.next_delay(), 3) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_one_that_crashes_after_a_stable_time_is_started_again_quickly() -> None:
    backoff = Backoff(first=0.1, stable=10)
    for _ in range(5):
        backoff.next_delay(lasted=9.9)
    assert backoff.next_delay(lasted=10) == 0.1


@given(st.lists(st.floats(0, 20), max_size=2000))
def test_no_history_of_crashes_makes_the_pause_shorter_than_first_or_longer_than_limit(lives: list[float]) -> None:
    backoff = Backoff(first=0.1, limit=30)
    assert all(0.1 <= backoff.next_delay(lasted) <= 30 for lasted in lives)


def test_a_thousand_crashes_do_not_overflow() -> None:
    backoff = Backoff()
    assert [backoff.next_delay() for _ in range(5000)][-1] == backoff.limit
