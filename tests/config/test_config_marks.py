"""Marks that are taken for others close the wrong connections."""

import pytest

from proxy.config.marks import DEFAULT, MOST, Marks


@pytest.mark.parametrize(
    ("text", "first", "count"),
    [
        ("0x5a000000-0x5a0000ff", 0x5A000000, 255),
        ("1-16", 1, 16),
        (" 0X10 - 31 ", 16, 16),
        ("4294967280-0xFFFFFFFF", 0xFFFFFFF0, 16),
        ("1-4294967295", 1, 255),
    ],
)
def test_both_ends_belong_to_it_in_hexadecimal_or_decimal(text: str, first: int, count: int) -> None:
    marks = Marks.parse(text)
    assert (marks.first, marks.count) == (first, count)
    assert first in marks
    assert first + count - 1 in marks
    assert first - 1 not in marks
    assert first + count not in marks


def test_the_default_has_one_for_each_generation_there_can_be() -> None:
    assert DEFAULT.count == MOST
    assert Marks.parse(str(DEFAULT)) == DEFAULT
    assert str(Marks.parse("256-511")) == "0x100-0x1ff"


@pytest.mark.parametrize(
    "text",
    ["", "5", "-", "1-", "-16", "1-15", "0-99", "16-1", "1-0x100000000", "0x-0x", "a-b", "1--16", "1-16-32", "1 16",
     "٣-٩٩", "1-" + "9" * 5000],
)  # fmt: skip
def test_what_is_no_range_or_none_that_can_be_used_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"mark|range"):
        Marks.parse(text)
