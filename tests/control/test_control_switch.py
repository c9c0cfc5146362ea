"""The switch with real workers, and a control process that is gone in the middle of it: all of them do the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
import trio

from proxy import wire
from tests.control.pools import (
    PATIENCE,
    SERVICE,
    Backends,
    Client,
    Life,
    Lives,
    greeted_by,
    knock,
    route,
    until,
    visit,
)

if TYPE_CHECKING:
    import socket

WORKERS = 2


class CutError(Exception):
    """Here control ends."""


Ask = Callable[..., Awaitable[list[wire.Ack]]]
Story = Callable[[Life, Ask, Any, int], Awaitable[list[wire.Ack]]]


# Where it ends. `ask` does what the pool does; it is asked twice, first to hold and then to follow the new route.


async def _some_hold(life: Life, ask: Ask, post: Any, turn: int) -> list[wire.Ack]:
    first = life.pool.workers[0]
    await life.pool._answers([(first, post(first))])
    raise CutError


async def _all_hold(life: Life, ask: Ask, post: Any, turn: int) -> list[wire.Ack]:
    await ask(post)
    raise CutError


async def _decided(life: Life, ask: Ask, post: Any, turn: int) -> list[wire.Ack]:
    if turn == 2:
        raise CutError
    return await ask(post)


async def _some_follow(life: Life, ask: Ask, post: Any, turn: int) -> list[wire.Ack]:
    return await (_some_hold if turn == 2 else _through)(life, ask, post, turn)


async def _all_follow(life: Life, ask: Ask, post: Any, turn: int) -> list[wire.Ack]:
    return await (_all_hold if turn == 2 else _through)(life, ask, post, turn)


async def _through(life: Life, ask: Ask, post: Any, turn: int) -> list[wire.Ack]:
    return await ask(post)


async def _replaced(life: Life, ask: Ask, post: Any, turn: int) -> list[wire.Ack]:
    """A worker dies while the others hold; the one that replaces it has heard of the switch as well."""
    await ask(post)
    victim = life.pool.workers[0]
    victim.process.kill()
    with trio.fail_after(PATIENCE):
        await victim.ended.wait()
    await until(lambda: len(life.pool.workers) == WORKERS and life.pool.workers[0].served.is_set())
    return []


async def _replaced_undecided(life: Life, ask: Ask, post: Any, turn: int) -> list[wire.Ack]:
    await _replaced(life, ask, post, turn)
    raise CutError


async def _replaced_decided(life: Life, ask: Ask, post: Any, turn: int) -> list[wire.Ack]:
    if turn == 2:
        raise CutError
    return await _replaced(life, ask, post, turn)


async def cut(life: Life, listener: socket.socket, to: wire.Route, story: Story) -> list[Client]:
    """Switch, and end in the middle; returns clients that came while the workers held new connections."""
    ask, waiting = life.pool._all, []
    turn = 0

    async def all_asked(post: Any) -> list[wire.Ack]:
        nonlocal turn
        turn += 1
        try:
            return await story(life, ask, post, turn)
        finally:
            waiting.extend([await knock(listener) for _ in range(6)])

    life.pool._all = all_asked  # type: ignore[method-assign]
    with pytest.raises(CutError):
        await life.pool.switch(to)
    await life.crash()
    return waiting


@pytest.mark.parametrize(
    ("story", "outcome"),
    [
        (_some_hold, 1),
        (_all_hold, 1),
        (_replaced_undecided, 1),
        (_decided, 2),
        (_replaced_decided, 2),
        (_some_follow, 2),
        (_all_follow, 2),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else str(value),
)
async def test_whenever_control_is_gone_in_a_switch_all_workers_serve_the_same_version(
    here: Lives, backends: Backends, listener: socket.socket, story: Story, outcome: int
) -> None:
    life = await here.begin(WORKERS)
    one, two = await backends.start(b"one"), await backends.start(b"two")
    await life.pool.add(route(1, one), {"a": listener})
    expected = {1: b"one", 2: b"two"}[outcome]
    waiting = await cut(life, listener, route(2, two), story)
    found = await here.find()
    routes = [each.serving[SERVICE].route for each in found]
    assert [each and each.generation for each in routes] == [outcome] * WORKERS
    assert {await client.listen() for client in waiting} == {expected}
    assert await greeted_by(listener, 12) == {expected}
    for client in waiting:
        await client.close()

    following = await here.begin(WORKERS, found)
    await following.pool.add(route(outcome, {1: one, 2: two}[outcome]), {"a": listener})
    assert await greeted_by(listener, 6) == {expected}
    await following.pool.switch(route(3, await backends.start(b"three")))
    assert await greeted_by(listener, 6) == {b"three"}, "and the next switch is one step again"


async def test_who_comes_while_workers_hold_is_served_by_what_was_decided(
    here: Lives, backends: Backends, listener: socket.socket
) -> None:
    """All of them hold from the first ack of the last worker on; nobody may meet the new version and then the old."""
    life = await here.begin(WORKERS)
    await life.pool.add(route(1, await backends.start(b"one")), {"a": listener})
    came: list[Client] = []
    ask = life.pool._all

    async def all_asked(post: Any) -> list[wire.Ack]:
        acks = await ask(post)
        if not came:
            came.extend([await knock(listener) for _ in range(12)])
            await until_accepted(life, len(came))
        return acks

    life.pool._all = all_asked  # type: ignore[method-assign]
    held = await visit(listener)
    with trio.fail_after(PATIENCE):
        await life.pool.switch(route(2, await backends.start(b"two")))
    assert {await client.listen() for client in came} == {b"two"}
    assert await held.ask() == b"one", "who was connected stays with the version that it has"
    for client in (held, *came):
        await client.close()


async def until_accepted(life: Life, clients: int) -> None:
    """Wait until all of these clients were accepted, and wait for a backend themselves."""
    with trio.fail_after(PATIENCE):
        while True:
            for each in life.pool.workers:
                await life.pool.take_counts(each)
            if life.pool.traffic.of(SERVICE).waiting == clients:
                return
            await trio.sleep(0.01)
