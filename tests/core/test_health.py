from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.health import RiseFall


def test_one_lost_answer_does_not_take_a_backend_out_of_rotation() -> None:
    health = RiseFall(rise=1, fall=3, healthy=True)
    assert [health.record(ok=ok) for ok in (False, False, True, False, False)] == [False] * 5
    assert health.healthy
    assert health.record(ok=False)
    assert not health.healthy


def test_a_backend_that_flaps_does_not_come_back_before_rise_successes_in_a_row() -> None:
    health = RiseFall(rise=2, fall=1)
    assert [health.record(ok=ok) for ok in (True, False, True)] == [False] * 3
    assert health.record(ok=True)
    assert health.healthy


@given(rise=st.integers(1, 5), fall=st.integers(1, 5), answers=st.lists(st.booleans()))
def test_the_verdict_is_what_the_last_answers_say(rise: int, fall: int, answers: list[bool]) -> None:
    health = RiseFall(rise=rise, fall=fall)
    expected = False
    for count, ok in enumerate(answers, 1):
        last = answers[max(0, count - (fall if expected else rise)) : count]
        turns = len(last) == (fall if expected else rise) and set(last) == {not expected}
        expected ^= turns
        assert health.record(ok=ok) == turns
        assert health.healthy == expected
