"""What the log says: one line for one event, whatever is in it."""

from __future__ import annotations

import logging

import pytest

from proxy import logs


@pytest.mark.parametrize(
    "text",
    ["\x1b[2J\x1b]0;gone\x07", "a\rforged", "a\x85b", "a\u2028b", "a\u202eb", "\udcff", "a\nb", 'a"b', "a=b", ""],
)
def test_what_a_stranger_sends_moves_no_cursor_and_begins_no_line(text: str) -> None:
    record = logging.makeLogRecord({"msg": "request refused", "facts": {"path": text}})
    line = logs._TextFormatter().format(record)
    assert line.isprintable()
    assert line.isascii()
    assert ' path="' in line


@pytest.mark.parametrize("text", ["/v1/status", "größe", "版本"])
def test_words_stay_as_people_read_them(text: str) -> None:
    record = logging.makeLogRecord({"msg": "request refused", "facts": {"path": text}})
    assert logs._TextFormatter().format(record).endswith(f" path={text}")
