from __future__ import annotations

import signal

import pytest

from proxy.control.exits import Exit


@pytest.mark.parametrize(
    ("exit_", "words"),
    [
        (Exit(0), "exited with status 0"),
        (Exit(127), "exited with status 127"),
        (Exit(-signal.SIGSEGV), "killed by SIGSEGV"),
        (Exit(-40), "killed by signal 40"),
        (Exit(-signal.SIGKILL), "killed by SIGKILL (out of memory? `dmesg` says)"),
        (Exit(-signal.SIGKILL, stopped=True), "killed by SIGKILL"),
        (Exit(None), "exited"),
    ],
)
def test_the_end_of_a_process_is_told_in_words(exit_: Exit, words: str) -> None:
    assert str(exit_) == words


def test_only_status_0_is_a_clean_end() -> None:
    assert Exit(0).is_clean
    assert not any(Exit(code).is_clean for code in (1, -15, None))
