from __future__ import annotations

import os
import time

import pytest
import trio
import trio.testing

from proxy.kernel import clock
from proxy.kernel.clock import ClockWatch


def set_to_now() -> None:
    """Set the clock to what it is, which is a step of microseconds; skip where that is not allowed."""
    try:
        time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME))
    except PermissionError:
        pytest.skip("needs CAP_SYS_TIME")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to set the clock")
async def test_whoever_sets_the_clock_wakes_who_waits_each_time() -> None:
    with ClockWatch() as watch, trio.fail_after(5):
        for _ in range(3):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def wait() -> None:
                    assert abs(await watch.stepped()) < 0.1

                await trio.testing.wait_all_tasks_blocked()
                set_to_now()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to set the clock")
async def test_the_size_of_a_step_is_what_the_clocks_drifted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with ClockWatch() as watch, trio.fail_after(5):
        before = clock.offset()
        for size in (3600, -7200):
            before += size * 10**9
            monkeypatch.setattr(clock, "offset", lambda before=before: before)
            set_to_now()
            assert await watch.stepped() == pytest.approx(size, abs=0.1)


async def test_a_clock_that_nobody_sets_wakes_nobody() -> None:
    with ClockWatch() as watch:
        with trio.move_on_after(0.05) as nothing:
            await watch.stepped()
        assert nothing.cancelled_caught


async def test_closing_wakes_whoever_waits() -> None:
    watch = ClockWatch()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await watch.stepped()

        await trio.testing.wait_all_tasks_blocked()
        watch.close()
