"""A duration that is misread makes a drain end too early, or never."""

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.duration import LONGEST, format_duration, parse_duration


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("500ms", 0.5),
        ("1h", 3600.0),
        ("1m30s", 90.0),
        ("1h2m3s4ms", 3723.004),
        ("0.1s", 0.1),
        ("3ms", 0.003),
        (" 30s ", 30.0),
        ("30", 30.0),
        ("0", 0.0),
        ("0s", 0.0),
        (0, 0.0),
        (30, 30.0),
        (0.25, 0.25),
        ("8760h", LONGEST),
    ],
)
def test_every_notation_means_its_seconds(written: object, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("5 minutes", '"5 minutes" is not a duration'),
        ("5d", "is not a duration"),
        ("30s1m", "is not a duration"),
        ("1s1s", "is not a duration"),
        ("", "is not a duration"),
        ("s", "is not a duration"),
        (".5s", "is not a duration"),
        ("nan", "is not a duration"),
        ("inf", "is not a duration"),
        ("1e3s", "is not a duration"),
        ("\u0663s", "is not a duration"),
        ("--5s", "is not a duration"),
        (math.nan, "finite"),
        (math.inf, "finite"),
        (-math.inf, "finite"),
        (-1, "negative"),
        ("-5s", "negative"),
        ("-5", "negative"),
        ("8761h", "at most a year"),
        (1e300, "at most a year"),
        (10**400, "at most a year"),
        ("9" * 500, "at most a year"),
        (True, "expected a duration"),
        (None, "expected a duration"),
        (["5s"], "expected a duration"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(written: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_duration(written)


@pytest.mark.parametrize("written", ["5 minutes", -1, math.nan, True])
def test_a_refusal_shows_how_to_write_it(written: object) -> None:
    with pytest.raises(ValueError, match="for example"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0"),
        (0.0001, "0"),
        (0.25, "250ms"),
        (0.9999, "1s"),
        (1.5, "1.5s"),
        (30.0, "30s"),
        (59.9999, "1m"),
        (90.0, "1m30s"),
        (3723.004, "1h2m3.004s"),
    ],
)
def test_a_duration_is_shown_as_it_would_be_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=0, max_value=int(LONGEST) * 1000))
def test_what_is_shown_can_be_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.text())
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    with suppress(ValueError):
        assert 0 <= parse_duration(text) <= LONGEST
