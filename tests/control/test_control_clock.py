"""A step of the wall clock is news for people, and for nothing else."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from proxy.control import clock
from proxy.control.trouble import Troubles
from proxy.kernel import clock as kernel

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("step", "words"), [(3600.0, "set forward by 3600.0 s"), (-1.5, "set back by 1.5 s"), (1.0, ""), (-0.2, "")]
)
def test_a_step_is_a_warning_with_its_size_once(step: float, words: str, caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles()
    clock.report(troubles, step)
    clock.report(troubles, step)
    assert [record.levelname for record in caplog.records] == (["WARNING"] if words else [])
    assert [words in trouble["message"] for trouble in troubles.describe()] == ([True] if words else [])


def test_a_step_is_shown_for_some_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    troubles = Troubles()
    clock.report(troubles, 60)
    assert troubles.active()["clock"]
    later = time.monotonic() + 601
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert not troubles.active()["clock"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to set the clock")
async def test_the_one_that_sets_the_clock_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def offsets() -> Iterator[int]:
        yield 0
        while True:
            yield 90 * 10**9

    found = offsets()
    monkeypatch.setattr(kernel, "offset", lambda: next(found))
    troubles = Troubles()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.watch, troubles)
        await trio.testing.wait_all_tasks_blocked()
        time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME))
        with trio.fail_after(5):
            while not troubles.active()["clock"]:
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert "forward by 90.0 s" in troubles.describe()[0]["message"]


async def test_a_kernel_that_cannot_tell_costs_only_the_notice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(clock, "ClockWatch", fail)
    await clock.watch(Troubles())
    assert "will not be noticed" in caplog.text
