"""Who may hold the lock together, and who waits for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from proxy.control.shared_lock import SharedLock

if TYPE_CHECKING:
    from collections.abc import Callable


class Users:
    """Tasks that hold the lock until they are let go; `log` says who got it, in order."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.lock = SharedLock()
        self.log: list[str] = []
        self._nursery = nursery

    async def share(self, name: str) -> Callable[[], None]:
        return await self._begin(name, alone=False)

    async def alone(self, name: str) -> Callable[[], None]:
        return await self._begin(name, alone=True)

    async def _begin(self, name: str, *, alone: bool) -> Callable[[], None]:
        scope, over = trio.CancelScope(), trio.Event()
        self._nursery.start_soon(self._hold, name, alone, scope, over)
        await trio.testing.wait_all_tasks_blocked()
        return scope.cancel if name not in self.log else over.set

    async def _hold(self, name: str, alone: bool, scope: trio.CancelScope, over: trio.Event) -> None:
        with scope:
            async with self.lock.alone() if alone else self.lock.shared():
                self.log.append(name)
                await over.wait()


@pytest.fixture
def users(nursery: trio.Nursery) -> Users:
    return Users(nursery)


async def test_a_switch_does_not_wait_for_another_services_switch(users: Users) -> None:
    first = await users.share("first")
    second = await users.share("second")
    assert users.log == ["first", "second"]
    first()
    second()


async def test_a_handover_waits_for_every_request_that_is_under_way_and_lets_no_new_one_in(users: Users) -> None:
    first, second = await users.share("first"), await users.share("second")
    await users.alone("handover")
    await users.share("late")
    first()
    await trio.testing.wait_all_tasks_blocked()
    assert users.log == ["first", "second"]
    second()
    await trio.testing.wait_all_tasks_blocked()
    assert users.log == ["first", "second", "handover"]


async def test_when_the_handover_is_over_whoever_waited_goes_on(users: Users) -> None:
    handover = await users.alone("handover")
    late, later = await users.share("late"), await users.share("later")
    assert users.log == ["handover"]
    handover()
    await trio.testing.wait_all_tasks_blocked()
    assert users.log == ["handover", "late", "later"]
    late()
    later()


async def test_one_handover_at_a_time(users: Users) -> None:
    first = await users.alone("first")
    await users.alone("second")
    assert users.log == ["first"]
    first()
    await trio.testing.wait_all_tasks_blocked()
    assert users.log == ["first", "second"]


async def test_a_handover_that_is_called_off_while_it_waits_keeps_nobody_out(users: Users) -> None:
    first = await users.share("first")
    call_off = await users.alone("handover")
    late = await users.share("late")
    assert users.log == ["first"]
    call_off()
    await trio.testing.wait_all_tasks_blocked()
    assert users.log == ["first", "late"]
    first()
    late()


async def test_an_error_gives_the_lock_back(users: Users) -> None:
    for hold in (users.lock.shared, users.lock.alone):
        with pytest.raises(OSError, match="in it"):
            async with hold():
                raise OSError("in it")
    with trio.fail_after(1):
        async with users.lock.alone():
            pass
        async with users.lock.shared():
            pass
