"""A worker takes the place of another one, with real workers, connections and backends: nobody notices."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from proxy import wire
from proxy.control import relief
from proxy.errors import UpgradeError
from proxy.kernel import procfs
from tests.control.pools import (
    PATIENCE,
    SERVICE,
    Backends,
    Life,
    Lives,
    freeze,
    greeted_by,
    route,
    thaw,
    until,
    visit,
)
from tests.relay.handing import Between, channel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.control.worker import Worker
    from tests.control.pools import Client


async def serving(here: Lives, backends: Backends, listener: socket.socket, count: int = 1) -> Life:
    life = await here.begin(count)
    await life.pool.add(route(1, await backends.start(b"one")), {"a": listener})
    return life


async def relieve(life: Life, index: int = 0, patience: float = PATIENCE) -> relief.Relieved:
    with trio.fail_after(PATIENCE):
        return await relief.relieve(life.pool, index, life.nursery, patience)


async def answers(clients: list[Client]) -> set[bytes]:
    """Who answers on connections that are open."""
    return {await client.ask() for client in clients}


def workers_are(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Let workers that are started from now on be of another kind."""
    monkeypatch.setattr("proxy.control.worker._COMMAND", (sys.executable, "-P", "-m", module))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


async def gone(worker: Worker) -> None:
    with trio.fail_after(PATIENCE):
        await worker.ended.wait()


async def settled(life: Life, active: int) -> wire.GenerationCounts:
    """The counts of generation 1, once the end of whoever left has been seen."""
    with trio.fail_after(PATIENCE):
        while True:
            await life.pool.refresh()
            counts = life.pool.traffic.of(SERVICE).generations[1]
            if counts.active <= active:
                return counts
            await trio.sleep(0.01)


async def test_open_connections_go_on_in_the_new_worker_and_the_old_one_leaves(
    here: Lives, backends: Backends, listener: socket.socket
) -> None:
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    clients = [await visit(listener) for _ in range(20)]
    relieved = await relieve(life)
    await gone(old)
    (new,) = life.pool.workers
    assert (relieved.worker, relieved.old, relieved.new) == (0, old.pid, new.pid)
    assert (relieved.carried, relieved.kept) == (20, 0)
    assert 0 <= relieved.pause < PATIENCE
    assert {await client.ask() for client in clients} == {b"one"}
    assert await greeted_by(listener) == {b"one"}
    assert life.pool.restarts == 0, "it was not missed"
    counts = await settled(life, 20)
    assert (counts.active, counts.connections) == (20, 21), "the old one's counts are kept, and none counts twice"
    for client in clients:
        await client.close()


async def test_while_one_worker_relieves_another_nobody_is_refused(
    here: Lives, backends: Backends, listener: socket.socket
) -> None:
    life = await serving(here, backends, listener, 2)
    visits = 0
    over = False

    async def come_and_go() -> None:
        nonlocal visits
        while not over:
            assert await greeted_by(listener) == {b"one"}
            visits += 1

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(come_and_go)
        before = {each.identity for each in life.pool.workers}
        for index in range(2):
            await relieve(life, index)
        await until(lambda: len(life.pool.workers) == 2)
        seen = visits
        await until(lambda: visits > seen + 8)
        over = True
    assert not before & {each.identity for each in life.pool.workers}
    assert [each.index for each in life.pool.workers] == [0, 1]
    assert life.pool.surplus == []


async def test_a_generation_that_drains_is_never_said_to_be_empty_on_the_way(
    here: Lives, backends: Backends, listener: socket.socket
) -> None:
    life = await serving(here, backends, listener)
    clients = [await visit(listener) for _ in range(10)]
    await life.pool.switch(route(2, await backends.start(b"two")))
    left: list[int] = []
    drained = trio.Event()

    async def drain() -> None:
        await life.pool.drained(SERVICE, 1, left.append)
        drained.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        for _ in range(3):
            (old,) = life.pool.workers
            assert (await relieve(life)).carried == 10
            assert life.pool.remaining(SERVICE, 1) >= 10
            await gone(old)
        assert not drained.is_set()
        assert life.pool.remaining(SERVICE, 1) == 10
        assert {await client.ask() for client in clients} == {b"one"}
        assert await greeted_by(listener) == {b"two"}
        for client in clients:
            await client.close()
        with trio.fail_after(PATIENCE):
            await drained.wait()
    assert 0 not in left[:-1]
    assert left[-1] == 0
    assert max(left) <= 20, "in between, one counts twice at most"


async def test_what_is_asked_of_all_workers_waits_until_a_handover_is_over(
    here: Lives, backends: Backends, listener: socket.socket, nursery: trio.Nursery
) -> None:
    """A switch in the middle of it would reach neither worker with the connections that are on the way."""
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    client = await visit(listener)
    two = await backends.start(b"two")
    switched = trio.Event()

    async def switch() -> None:
        await life.pool.switch(route(2, two))
        switched.set()

    freeze(old)
    nursery.start_soon(relieve, life)
    await until(lambda: life.pool.holder(0) is not old)
    nursery.start_soon(switch)
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert not switched.is_set()
    thaw(old)
    with trio.fail_after(PATIENCE):
        await switched.wait()
    assert await greeted_by(listener, 3) == {b"two"}
    assert await client.ask() == b"one"
    assert life.pool.remaining(SERVICE, 1) >= 1
    await client.close()
    await gone(old)


# When one of them dies on the way.


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """Whoever takes over is killed as soon as it was told to; it had no time to look."""
    victims: list[Worker] = []
    connect = relief._connect

    def struck(old: Worker, new: Worker) -> Any:
        freeze(new)
        outcome = connect(old, new)
        new.process.kill()
        victims.append(new)
        return outcome

    monkeypatch.setattr(relief, "_connect", struck)
    return victims


async def test_when_the_new_worker_is_killed_on_the_way_the_old_one_serves_on(
    here: Lives, backends: Backends, listener: socket.socket, killed: list[Worker]
) -> None:
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    clients = [await visit(listener) for _ in range(20)]
    with pytest.raises(UpgradeError, match=f"could not take over from {old.pid}") as caught:
        await relieve(life)
    (victim,) = killed
    assert str(victim.pid) in caught.value.message
    assert f"worker {old.pid} serves on" in caught.value.hint
    assert life.pool.workers == [old]
    assert life.pool.holder(0) is old
    assert {await client.ask() for client in clients} == {b"one"}
    assert await greeted_by(listener, 3) == {b"one"}
    await life.pool.switch(route(2, await backends.start(b"two")))
    assert await greeted_by(listener, 3) == {b"two"}
    assert (await settled(life, 20)).active == 20
    for client in clients:
        await client.close()


async def test_after_a_failed_relief_the_next_one_succeeds(
    here: Lives, backends: Backends, listener: socket.socket, monkeypatch: pytest.MonkeyPatch, killed: list[Worker]
) -> None:
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    client = await visit(listener)
    with pytest.raises(UpgradeError):
        await relieve(life)
    monkeypatch.undo()
    assert (await relieve(life)).carried == 1
    await gone(old)
    assert await client.ask() == b"one"
    assert await greeted_by(listener) == {b"one"}
    await client.close()


async def test_a_new_worker_that_hangs_is_killed_and_the_old_one_serves_on(
    here: Lives, backends: Backends, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    clients = [await visit(listener) for _ in range(5)]
    connect, hanging = relief._connect, []

    def frozen(old: Worker, new: Worker) -> Any:
        freeze(new)
        hanging.append(new)
        return connect(old, new)

    monkeypatch.setattr(relief, "_connect", frozen)
    monkeypatch.setattr(relief, "TIMEOUT", 0.5)
    with pytest.raises(UpgradeError, match="died, or did not answer"):
        await relieve(life)
    assert not procfs.is_running(hanging[0].identity)
    assert {await client.ask() for client in clients} == {b"one"}
    assert await greeted_by(listener, 3) == {b"one"}
    assert life.pool.workers == [old]
    for client in clients:
        await client.close()


async def test_when_the_old_worker_is_killed_on_the_way_the_new_one_serves_all_who_come(
    here: Lives, backends: Backends, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had not given is lost with it, as with any worker that is killed; nobody else notices."""
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    clients = [await visit(listener) for _ in range(5)]
    connect = relief._connect

    def struck(old: Worker, new: Worker) -> Any:
        freeze(old)
        outcome = connect(old, new)
        old.process.kill()
        return outcome

    monkeypatch.setattr(relief, "_connect", struck)
    relieved = await relieve(life)
    await gone(old)
    assert relieved.carried == 0
    assert [each.pid for each in life.pool.workers] == [relieved.new]
    assert await greeted_by(listener, 3) == {b"one"}
    for client in clients:
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            assert await client.ask(), "closed"
        await client.close()


async def test_when_both_die_on_the_way_the_place_is_filled_again(
    here: Lives, backends: Backends, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    connect = relief._connect

    def struck(old: Worker, new: Worker) -> Any:
        outcome = connect(old, new)
        for each in (old, new):
            os.kill(each.pid, signal.SIGKILL)
        return outcome

    monkeypatch.setattr(relief, "_connect", struck)
    with pytest.raises(UpgradeError):
        await relieve(life)
    await gone(old)
    assert await greeted_by(listener, 3) == {b"one"}
    await until(lambda: life.pool.workers == [life.pool.holder(0)] != [old])


async def test_a_new_worker_that_does_not_get_ready_costs_nothing(
    here: Lives, backends: Backends, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    client = await visit(listener)
    monkeypatch.setattr("proxy.control.worker._COMMAND", ("false",))
    with pytest.raises(Exception, match="did not get ready"):
        await relieve(life)
    assert life.pool.workers == [old]
    assert (await client.ask(), await greeted_by(listener)) == (b"one", {b"one"})
    await client.close()


async def test_an_old_worker_that_dies_before_it_begins_leaves_no_worker_too_many(
    here: Lives, backends: Backends, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is replaced like any other; the one that was to relieve it is not needed."""
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    start = life.pool.start_beside

    async def struck(index: int) -> Worker:
        new = await start(index)
        old.process.kill()
        await old.ended.wait()
        return new

    monkeypatch.setattr(life.pool, "start_beside", struck)
    with pytest.raises(UpgradeError, match="has died"):
        await relieve(life)
    await until(lambda: life.pool.workers == [life.pool.holder(0)] != [old])
    assert await greeted_by(listener, 3) == {b"one"}


async def test_without_descriptors_for_a_relief_everything_stays_as_it_is(
    here: Lives, backends: Backends, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    client = await visit(listener)

    def exhausted(*_: object) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as context:
        context.setattr(relief, "_connect", exhausted)
        with pytest.raises(UpgradeError, match="Too many open files"):
            await relieve(life)
    assert life.pool.workers == [old] == [life.pool.holder(0)]
    assert await client.ask() == b"one"
    assert await greeted_by(listener, 3) == {b"one"}
    assert (await relieve(life)).carried >= 1
    await client.close()


# When it fails, and both live.


async def test_a_worker_that_refuses_to_hand_over_keeps_its_connections_and_its_place(
    here: Lives, backends: Backends, listener: socket.socket
) -> None:
    """As one that is still taking over itself, since a control process that is gone told it to. That nothing came is
    all that the new one hears.
    """
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    clients = [await visit(listener) for _ in range(5)]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        old.link.post(wire.TakeOver, given=theirs)
        with pytest.raises(UpgradeError, match="already"):
            await relieve(life)
        assert life.pool.workers == [old]
        assert life.pool.holder(0) is old
        assert await answers(clients) == {b"one"}
        assert await greeted_by(listener, 3) == {b"one"}
    assert (await relieve(life)).carried == 5
    assert await answers(clients) == {b"one"}
    for client in clients:
        await client.close()


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Between]]:
    """The next handover passes through the test."""
    made: list[Between] = []

    def connect(old: Worker, new: Worker) -> Any:
        (mine, far), (other, other_far) = channel(), channel()
        made.append(Between(mine, other))
        context.undo()
        return old.link.post(wire.Handover, given=far), new.link.post(wire.TakeOver, given=other_far)

    with monkeypatch.context() as context:
        context.setattr(relief, "_connect", connect)
        yield made
    for each in made:
        each.close()


async def pass_until(between: list[Between], kind: str) -> Between:
    await until(lambda: bool(between))

    def pass_on() -> None:
        while between[0].pass_on() != kind:
            pass

    await trio.to_thread.run_sync(pass_on)
    return between[0]


async def test_what_a_new_worker_had_taken_before_it_went_wrong_is_not_lost(
    here: Lives,
    backends: Backends,
    listener: socket.socket,
    between: list[Between],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With many connections there are several rounds, and the first ones are over. They go back."""
    workers_are(monkeypatch, "tests.relay.small_rounds")
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    clients = [await visit(listener) for _ in range(10)]

    async def disturb() -> None:
        middle = await pass_until(between, "taken")
        middle.giver.sendall(b"nonsense")
        await trio.to_thread.run_sync(middle.pass_abort)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(disturb)
        with pytest.raises(UpgradeError, match="could not take over"):
            await relieve(life)
    await until(lambda: life.pool.workers == [old])
    assert life.pool.holder(0) is old
    assert await answers(clients) == {b"one"}
    assert await greeted_by(listener, 3) == {b"one"}
    assert (await settled(life, 10)).active == 10
    assert (await relieve(life)).carried == 10
    for client in clients:
        await client.close()


async def test_when_the_new_worker_dies_with_all_that_it_took_the_old_one_serves_who_comes(
    here: Lives, backends: Backends, listener: socket.socket, between: list[Between], nursery: trio.Nursery
) -> None:
    """It had stopped to accept, because it had given all away."""
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    client = await visit(listener)

    async def strike() -> None:
        middle = await pass_until(between, "taken")
        _, _, kind = await trio.to_thread.run_sync(middle.receive, middle.giver)
        assert kind == "done"
        (new,) = (each for each in life.pool.workers if each is not old)
        new.process.kill()

    nursery.start_soon(strike)
    with pytest.raises(UpgradeError, match="died"):
        await relieve(life)
    assert life.pool.workers == [old]
    assert await greeted_by(listener, 3) == {b"one"}
    await client.close()


# A worker too many.


async def test_a_worker_too_many_gives_its_connections_to_one_that_has_a_place(
    here: Lives, backends: Backends, listener: socket.socket
) -> None:
    """As after a crash in the middle of an upgrade, or with fewer workers in the config."""
    first = await serving(here, backends, listener, 2)
    clients = [await visit(listener) for _ in range(12)]
    await first.crash()
    second = await here.begin(1, await here.find())
    await second.pool.add(route(1, await backends.start(b"one")), {"a": listener})
    (surplus,) = second.pool.surplus
    place = second.pool.holder(0)
    assert place
    await second.pool.refresh()
    own = second.pool.traffic.connections(place)
    with trio.fail_after(PATIENCE):
        relieved = await relief.hand_over(second.pool, surplus, place, second.nursery, PATIENCE)
    await gone(surplus)
    assert (relieved.carried, relieved.new) == (12 - own, place.pid)
    assert second.pool.workers == [place]
    assert second.pool.surplus == []
    assert {await client.ask() for client in clients} == {b"one"}
    assert await greeted_by(listener, 3) == {b"one"}
    for client in clients:
        await client.close()


class Crowded:
    """After a crash in the middle of an upgrade: a worker too many, one that has its place, and connections to both."""

    def __init__(self, life: Life, clients: list[Client]) -> None:
        self.life = life
        self.clients = clients
        (self.surplus,) = life.pool.surplus
        place = life.pool.holder(0)
        assert place
        self.place = place

    async def merge(self) -> list[Worker]:
        with trio.fail_after(PATIENCE):
            return await relief.merge(self.life.pool, [self.surplus], self.life.nursery, PATIENCE)

    async def assert_merges(self) -> None:
        """In the end nobody has lost anything."""
        assert await self.merge() == []
        await gone(self.surplus)
        assert self.life.pool.workers == [self.place]
        assert await answers(self.clients) == {b"one"}
        assert (await settled(self.life, len(self.clients))).active == len(self.clients)
        for client in self.clients:
            await client.close()


async def crowded(here: Lives, backends: Backends, listener: socket.socket) -> Crowded:
    first = await serving(here, backends, listener, 2)
    clients: list[Client] = []
    both = first.pool.workers
    for worker, other in (both, both[::-1]):
        freeze(other)
        clients += [await visit(listener) for _ in range(4)]
        thaw(other)
        await first.pool.refresh(PATIENCE)
        assert first.pool.traffic.connections(worker) >= 4
    await first.crash()
    second = await here.begin(1, await here.find())
    await second.pool.add(route(1, await backends.start(b"one")), {"a": listener})
    return Crowded(second, clients)


def freeze_taker(context: pytest.MonkeyPatch) -> None:
    """Whoever is to take over hangs as soon as it is told to."""
    connect = relief._connect

    def frozen(old: Worker, new: Worker) -> Any:
        freeze(new)
        return connect(old, new)

    context.setattr(relief, "_connect", frozen)


async def test_a_worker_that_hangs_is_not_given_what_another_one_serves(
    here: Lives, backends: Backends, listener: socket.socket
) -> None:
    both = await crowded(here, backends, listener)
    freeze(both.place)
    began = trio.current_time()
    assert await both.merge() == [both.surplus]
    assert trio.current_time() - began < relief.TIMEOUT / 2
    assert both.surplus.listening == {SERVICE: {"a"}}
    assert await greeted_by(listener, 3) == {b"one"}, "those who come are served meanwhile"
    thaw(both.place)
    await both.assert_merges()


async def test_a_worker_that_does_not_take_over_keeps_what_it_serves(
    here: Lives, backends: Backends, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs as it was told to, and comes to itself later: that is no reason to kill it, with all its connections."""
    workers_are(monkeypatch, "tests.relay.impatient")
    both = await crowded(here, backends, listener)
    with monkeypatch.context() as context:
        freeze_taker(context)
        assert await both.merge() == [both.surplus]
    assert procfs.is_running(both.place.identity)
    assert await greeted_by(listener, 3) == {b"one"}, "those who come are served meanwhile"
    thaw(both.place)
    assert await answers(both.clients) == {b"one"}
    await both.assert_merges()


async def test_neither_worker_is_killed_when_neither_says_how_it_went(
    here: Lives, backends: Backends, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a release before this one, which waits for as long as it takes. They bring it to an end by themselves."""
    both = await crowded(here, backends, listener)
    with monkeypatch.context() as context:
        freeze_taker(context)
        context.setattr(relief, "TIMEOUT", 0.3)
        assert await both.merge() == [both.surplus]
    assert procfs.is_running(both.place.identity)
    thaw(both.place)
    assert await answers(both.clients) == {b"one"}
    await both.assert_merges()


async def test_a_worker_too_many_whose_place_is_empty_just_now_serves_on(
    here: Lives, backends: Backends, listener: socket.socket
) -> None:
    both = await crowded(here, backends, listener)
    both.life.pool.vacate(0)
    assert await both.merge() == [both.surplus]
    both.life.pool.seat(0, both.place)
    await both.assert_merges()


async def test_a_worker_too_many_that_dies_is_not_missed(
    here: Lives, backends: Backends, listener: socket.socket
) -> None:
    both = await crowded(here, backends, listener)
    both.surplus.process.kill()
    await gone(both.surplus)
    assert await both.merge() == []
    assert both.life.pool.workers == [both.place]
    assert await greeted_by(listener, 3) == {b"one"}
    for client in both.clients:
        await client.close()


async def test_what_cannot_be_carried_is_served_to_its_end_or_to_the_deadline(
    here: Lives, backends: Backends, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that serves on for some connections is told to leave when its time is over."""
    life = await serving(here, backends, listener)
    (old,) = life.pool.workers
    outcome = relief._outcome

    async def unanswered(pending: Any, patience: float) -> wire.Ack | None:
        return None if patience == 0.2 else await outcome(pending, patience)

    monkeypatch.setattr(relief, "_outcome", unanswered)
    await relieve(life, patience=0.2)
    await gone(old)
    assert await greeted_by(listener, 3) == {b"one"}
