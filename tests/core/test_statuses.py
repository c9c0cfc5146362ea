"""A status code on the wrong side of a range makes a sick backend healthy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.statuses import StatusRanges


@pytest.mark.parametrize(
    ("text", "healthy", "sick"),
    [
        ("200-399", [200, 302, 399], [199, 400, 503]),
        ("200", [200], [199, 201]),
        ("200,204", [200, 204], [201, 203]),
        ("200-299, 401", [200, 299, 401], [300, 400, 402]),
    ],
)
def test_both_ends_of_a_range_belong_to_it(text: str, healthy: list[int], sick: list[int]) -> None:
    statuses = StatusRanges.parse(text)

    assert all(code in statuses for code in healthy)
    assert not any(code in statuses for code in sick)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2xx", '"2xx" is not a status code'),
        ("", "is not a status code"),
        ("200,", "is not a status code"),
        ("200-", "is not a status code"),
        ("399-200", '"200-399"'),
        ("099", "between 100 and 599"),
        ("200-600", "between 100 and 599"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StatusRanges.parse(text)


_CODES = st.integers(min_value=100, max_value=599)


@given(st.lists(st.tuples(_CODES, _CODES).map(lambda ends: (min(ends), max(ends))), min_size=1))
def test_what_is_shown_can_be_written(ranges: list[tuple[int, int]]) -> None:
    statuses = StatusRanges(tuple(ranges))

    assert StatusRanges.parse(str(statuses)) == statuses
