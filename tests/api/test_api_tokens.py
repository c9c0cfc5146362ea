"""Tokens and cookies: what they are good for, until when, and what becomes of them when the file changes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api import session
from proxy.api.tokens import TokenFile
from proxy.config.tokens import Tokens
from proxy.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = Tokens("a" * 32, "r" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    write(file, f"{TOKENS.act}\n{TOKENS.read}\n")
    return file


def write(path: Path, text: str) -> None:
    """Aside, then in one step, as people who are careful do it."""
    aside = path.with_name("aside")
    aside.touch(mode=0o600)
    aside.write_text(text)
    aside.replace(path)


def test_each_token_has_its_role_and_nothing_else_has_any(path: Path) -> None:
    file = TokenFile(path)
    assert (file.role_of(TOKENS.act), file.role_of(TOKENS.read)) == ("act", "read")
    for wrong in ("", "a", TOKENS.act[:-1], TOKENS.act + "a", TOKENS.act.upper(), f"{TOKENS.act}\n{TOKENS.read}", "é"):
        assert file.role_of(wrong) is None


def test_without_a_token_for_reading_an_empty_one_reads_nothing(path: Path) -> None:
    write(path, TOKENS.act)
    assert TokenFile(path).role_of("") is None


def test_a_token_that_is_replaced_counts_from_the_next_request_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    file = TokenFile(path)
    write(path, "b" * 32)
    assert (file.role_of("b" * 32), file.role_of(TOKENS.act), file.role_of(TOKENS.read)) == ("act", None, None)
    assert "b" * 32 not in caplog.text


@pytest.mark.parametrize("damage", ["gone", "empty", "public", "pipe"])
def test_a_file_that_cannot_be_used_any_more_locks_nobody_out(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = TokenFile(path)
    if damage == "gone":
        path.unlink()
    elif damage == "pipe":  # whoever opens it waits, and with them all that the control process does
        path.unlink()
        os.mkfifo(path, 0o600)
    elif damage == "empty":
        write(path, "# nothing\n")
    else:
        path.chmod(0o644)
    assert file.role_of(TOKENS.act) == "act"
    assert file.role_of(TOKENS.read) == "read"
    assert [record.message for record in caplog.records] == [
        "the token file cannot be used; the tokens of before stay in force"
    ]


def test_a_start_with_a_file_that_cannot_be_used_is_refused_with_what_to_do(path: Path) -> None:
    path.chmod(0o640)
    with pytest.raises(UsageError, match="others may read it") as caught:
        TokenFile(path)
    assert caught.value.hint == f"chmod 600 {path}"
    assert caught.value.exit_code == 2


def test_a_cookie_is_good_for_its_role_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    act, read = session.issue("act", TOKENS), session.issue("read", TOKENS)
    assert (session.role_of(act, TOKENS), session.role_of(read, TOKENS)) == ("act", "read")
    later = time.time() + session.LIFETIME
    monkeypatch.setattr(time, "time", lambda: later)
    assert session.role_of(act, TOKENS) is None


def test_a_cookie_cannot_be_made_better_than_it_is() -> None:
    role, ends, seal = session.issue("read", TOKENS).split(".")
    for forged in (f"act.{ends}.{seal}", f"{role}.{int(ends) + 1}.{seal}", f"{role}.{ends}.", f"{role}.{ends}", seal):
        with pytest.raises(ValueError, match="not a cookie of ours"):
            session.role_of(forged, TOKENS)


@pytest.mark.parametrize("other", [Tokens("b" * 32, TOKENS.read), Tokens(TOKENS.act, "b" * 32), Tokens(TOKENS.act)])
def test_with_other_tokens_everybody_signs_in_anew(other: Tokens) -> None:
    with pytest.raises(ValueError, match="not a cookie of ours"):
        session.role_of(session.issue("act", TOKENS), other)


@given(st.text(alphabet=st.characters(max_codepoint=255)))
def test_no_text_is_a_cookie_by_chance(value: str) -> None:
    with pytest.raises(ValueError, match="not a cookie of ours"):
        session.role_of(value, TOKENS)


def test_a_cookie_is_hidden_from_scripts_and_from_other_sites() -> None:
    field = session.header("proxyctl-9900", "x", is_secure=True)
    assert {"HttpOnly", "SameSite=Strict", "Secure", "Path=/", f"Max-Age={session.LIFETIME}"} <= set(field.split("; "))
    assert "Secure" not in session.header("proxyctl-9900", "x", is_secure=False)
    assert "Max-Age=0" in session.header("proxyctl-9900", "", is_secure=False)


def test_the_file_is_read_again_only_when_it_has_changed(path: Path) -> None:
    file = TokenFile(path)
    first = file.current
    os.utime(path)
    assert file.current is not first
    assert file.current is file.current
