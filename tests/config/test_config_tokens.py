"""A token that others can read is none, and one that is taken for another by mistake is worse."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import tokens
from proxy.config.tokens import Tokens

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.touch(mode=0o600)
    file.write_text("acting\nreading\n")
    return file


def test_the_first_token_acts_and_the_second_reads() -> None:
    assert tokens.parse("acting\nreading\n") == Tokens("acting", "reading")
    assert tokens.parse("# made on a Monday\n\n  acting  \n") == Tokens("acting")
    assert tokens.parse("a+b/c==\r\n# for Prometheus:\r\nd-e._~\r\n") == Tokens("a+b/c==", "d-e._~")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no token"),
        ("# only a remark\n\n", "there is no token"),
        ("a\nb\nc\n", "more than two"),
        ("act = secret\n", "one word"),
        ("sécret\n", "one word"),
        ("same\nsame\n", "the same"),
        ("a\0b", "one word"),
    ],
)
def test_what_is_no_token_file_is_refused_without_a_word_of_it(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        tokens.parse(text)
    assert "secret" not in str(caught.value)


@given(st.text())
def test_any_text_is_two_tokens_at_most_or_refused(text: str) -> None:
    try:
        found = tokens.parse(text)
    except ValueError:
        return
    assert found.act
    assert found.act != found.read
    assert (found.act + found.read).isascii()


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_ones_own_is_read(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert tokens.read(path) == Tokens("acting", "reading")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o602, 0o620, 0o601])
def test_a_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(ValueError, match=f"mode {mode:04o}"):
        tokens.read(path)


def test_a_file_that_somebody_else_has_written_is_refused(path: Path) -> None:
    os.chown(path, 12345, -1)
    with pytest.raises(ValueError, match="belongs to user 12345"):
        tokens.read(path)


def test_what_systemd_hands_over_is_used_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    assert tokens.read(path) == Tokens("acting", "reading")


def test_what_is_no_file_or_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not text"):
        tokens.read(path)
    with pytest.raises(IsADirectoryError):
        tokens.read(path.parent)


def test_the_way_to_make_one_that_is_told_works(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    command = tokens.HOW_TO_MAKE.format(path=path).removeprefix("make one: ")
    assert os.system(command) == 0
    made = tokens.read(path)
    assert min(len(made.act), len(made.read)) > tokens.SHORT
