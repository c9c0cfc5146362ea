"""The pool with real worker processes, in front of a backend that the test plays."""

import errno
import os
import shutil
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from proxy import wire
from proxy.control import listeners, worker, workers
from proxy.control.events import Bus
from proxy.control.link import Link
from proxy.control.workers import WorkerPool
from proxy.core.address import Address


@given(st.integers(1, 64), st.integers(1, 100_000))
def test_the_shares_of_a_limit_add_up_to_it(count, total):
    pool = WorkerPool(count, Path("unused"), Bus(), "text")
    shares = [pool._share(total, index) for index in range(count)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


@pytest.fixture
async def pool(tmp_path, nursery):
    pool = WorkerPool(2, tmp_path, Bus(), "text")
    await nursery.start(pool.run)
    yield pool
    nursery.cancel_scope.cancel()


@pytest.fixture
def listener():
    with listeners.bind(Address(host="127.0.0.1", port=0)) as listener:
        yield listener


@pytest.fixture
async def backend(nursery):
    """Start a backend that greets with its name and then waits for the client; returns its endpoint."""

    async def greet(name, stream):
        async with stream:
            await stream.send_all(name)
            with suppress(trio.BrokenResourceError):  # the deadline resets it
                await stream.receive_some(1)

    async def start(name):
        (sockets,) = await nursery.start(partial(trio.serve_tcp, partial(greet, name), 0, host="127.0.0.1"))
        return wire.Endpoint(0, f"127.0.0.1:{sockets.socket.getsockname()[1]}")

    return start


def _set_when_complete(pool, event):
    if len(pool.workers) == pool.count:
        event.set()


def accept(listener):
    """As a backend does that has it."""
    with listener.dup() as copy:
        copy.settimeout(10)
        return copy.accept()


async def greeting(listener):
    stream = await trio.open_tcp_stream(*listener.getsockname())
    with trio.fail_after(10):
        return stream, await stream.receive_some(100)


async def test_a_switch_reaches_every_worker_and_a_drain_is_told_to_its_end(pool, listener, backend):
    await pool.listen("web", {"a": listener})
    await pool.route(wire.Route(0, "web", 1, (await backend(b"one"),)))
    held = [await greeting(listener) for _ in range(5)]
    assert {answer for _, answer in held} == {b"one"}
    await pool.switch(wire.Route(0, "web", 2, (await backend(b"two"),)))
    for _ in range(20):
        stream, answer = await greeting(listener)
        await stream.aclose()
        assert answer == b"two"
    assert pool.remaining("web", 1) == 5
    progress = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.drained, "web", 1, progress.append)
        for stream, _ in held:
            await stream.aclose()
    assert (progress[0], progress[-1]) == (5, 0)


async def test_what_a_deadline_closes_is_counted(pool, listener, backend):
    await pool.listen("web", {"a": listener})
    await pool.route(wire.Route(0, "web", 1, (await backend(b"one"),)))
    held = [await greeting(listener) for _ in range(3)]
    await pool.switch(wire.Route(0, "web", 2))
    assert await pool.close("web", 1) == 3
    await pool.drained("web", 1, lambda left: None)
    for stream, _ in held:
        with pytest.raises(trio.BrokenResourceError):  # not a clean end: it was not the backend's
            await stream.receive_some(1)
        await stream.aclose()


async def test_a_dead_worker_is_replaced_and_knows_what_the_others_know(pool, listener, backend):
    await pool.listen("web", {"a": listener})
    await pool.route(wire.Route(0, "web", 1, (await backend(b"one"),)))
    for old in pool.workers:
        replaced = trio.Event()
        pool.on_change = partial(_set_when_complete, pool, replaced)
        old.process.kill()
        with trio.fail_after(20):
            await replaced.wait()
    assert pool.restarts == 2
    stream, answer = await greeting(listener)
    await stream.aclose()
    assert answer == b"one"


async def test_a_worker_that_hangs_cannot_hold_a_switch_up(pool, listener, backend, monkeypatch):
    await pool.listen("web", {"a": listener})
    await pool.route(wire.Route(0, "web", 1, (await backend(b"one"),)))
    monkeypatch.setattr(workers.WorkerPool._answers, "__defaults__", (0.5,))
    stuck = pool.workers[0]
    os.kill(stuck.process.pid, signal.SIGSTOP)
    with trio.fail_after(10):
        await pool.switch(wire.Route(0, "web", 2, (await backend(b"two"),)))
    assert stuck.process.returncode == -signal.SIGKILL
    stream, answer = await greeting(listener)
    await stream.aclose()
    assert answer == b"two"


async def test_counts_of_a_worker_that_died_are_kept(pool, listener, backend):
    await pool.listen("web", {"a": listener})
    await pool.route(wire.Route(0, "web", 1, (await backend(b"one"),)))
    for _ in range(10):
        stream, _ = await greeting(listener)
        await stream.aclose()
    await pool.refresh()
    before = pool.traffic.of("web").generations[1].connections
    for each in pool.workers:
        each.process.kill()
        await each.process.wait()
    await pool.refresh()
    assert (before, pool.traffic.of("web").generations[1].connections) == (10, 10)


# A worker of another release, as an upgrade of the package under a running proxy leaves it to be started.
_STRANGER = """
import os, signal, socket, sys
from proxy import wire

listener = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
control, _ = listener.accept()
control.send(wire.encode(wire.Hello(wire.VERSION + 1, os.getpid())))
signal.pause()
"""
_MUTE = "import signal; signal.pause()"


def runs(monkeypatch, script):
    """Workers that are started from now on run this instead."""
    monkeypatch.setattr(worker, "_COMMAND", (sys.executable, "-c", script))


async def happened(events, **values):
    """Wait for a worker's event with these values."""
    with trio.fail_after(20):
        async for event in events:
            if values.items() <= event.items():
                return event
    raise AssertionError("the stream ended")


async def test_a_replacement_of_another_release_costs_nobody_else_anything(pool, listener, backend, monkeypatch):
    await pool.listen("web", {"a": listener})
    await pool.route(wire.Route(0, "web", 1, (await backend(b"one"),)))
    victim, survivor = pool.workers
    command = worker._COMMAND
    with pool._bus.subscribe() as events:
        runs(monkeypatch, _STRANGER)
        victim.process.kill()
        await happened(events, state="died", pid=victim.process.pid)
        stranger = await happened(events, state="died", worker=0)
        assert stranger["pid"] != victim.process.pid
        assert pool.workers == [survivor]
        stream, answer = await greeting(listener)
        await stream.aclose()
        assert answer == b"one"
        monkeypatch.setattr(worker, "_COMMAND", command)
        await happened(events, state="started", worker=0)
    assert len(pool.workers) == 2


async def test_a_worker_is_replaced_although_its_folder_was_removed(pool, listener, backend, tmp_path):
    await pool.listen("web", {"a": listener})
    await pool.route(wire.Route(0, "web", 1, (await backend(b"one"),)))
    shutil.rmtree(tmp_path / "workers")
    victim, survivor = pool.workers
    with pool._bus.subscribe() as events:
        victim.process.kill()
        await happened(events, state="died", pid=victim.process.pid)
        assert pool.workers == [survivor]
        stream, answer = await greeting(listener)
        await stream.aclose()
        assert answer == b"one"
        await happened(events, state="started", worker=0)


async def test_a_worker_that_cannot_be_started_for_now_is_started_when_it_can(pool, monkeypatch, caplog):
    spawn, refused = worker.reaper.spawn, trio.Event()

    async def fail(*_, **__):
        await trio.lowlevel.checkpoint()
        refused.set()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with pool._bus.subscribe() as events:
        monkeypatch.setattr(worker.reaper, "spawn", fail)
        pool.workers[0].process.kill()
        with trio.fail_after(10):
            await refused.wait()
        monkeypatch.setattr(worker.reaper, "spawn", spawn)
        await happened(events, state="started", worker=0)
    assert "cannot start a worker" in caplog.text


async def test_a_switch_does_not_wait_for_the_replacement_of_a_killed_worker(pool, listener, backend, monkeypatch):
    """The replacement never says a word here; a switch that waited for it would take seconds."""
    await pool.listen("web", {"a": listener})
    await pool.route(wire.Route(0, "web", 1, (await backend(b"one"),)))
    start, replaced = worker.start, trio.Event()

    async def started(*arguments):
        started = await start(*arguments)
        replaced.set()
        return started

    monkeypatch.setattr(worker, "start", started)
    runs(monkeypatch, _MUTE)
    pool.workers[0].process.kill()
    with trio.fail_after(10):
        await replaced.wait()
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()  # a deadline would not end it: a switch is not called off half-way
    await pool.switch(wire.Route(0, "web", 2, (await backend(b"two"),)))
    assert trio.current_time() - began < workers.ANSWER_TIMEOUT / 2
    stream, answer = await greeting(listener)
    await stream.aclose()
    assert answer == b"two"


async def test_a_replacement_that_never_gets_ready_is_replaced_itself(pool, monkeypatch):
    command = worker._COMMAND
    with pool._bus.subscribe() as events:
        monkeypatch.setattr(workers, "START_TIMEOUT", 0.1)
        runs(monkeypatch, _MUTE)
        victim = pool.workers[0]
        victim.process.kill()
        await happened(events, state="died", pid=victim.process.pid)
        mute = await happened(events, state="died", worker=0)
        assert mute["pid"] != victim.process.pid
        monkeypatch.setattr(workers, "START_TIMEOUT", 30)
        monkeypatch.setattr(worker, "_COMMAND", command)
        await happened(events, state="started", worker=0)


async def test_a_worker_that_dies_before_it_is_ready_does_not_keep_the_proxy_from_starting(
    tmp_path, nursery, monkeypatch
):
    bus = Bus()
    pool = WorkerPool(1, tmp_path, bus, "text")
    command = worker._COMMAND
    pool.on_change = lambda: monkeypatch.setattr(worker, "_COMMAND", command)
    runs(monkeypatch, "raise SystemExit(1)")
    with trio.fail_after(10):
        await nursery.start(pool.run)
    assert len(pool.workers) == 1
    nursery.cancel_scope.cancel()


async def test_a_service_is_not_reachable_before_its_policy_is_known(pool, listener, backend, monkeypatch):
    """Whoever connected in between would be served, but not as the policy says, for as long as the connection lasts."""
    asked = []
    post = Link.post

    def noting(link, request, *args, **options):
        asked.append(type(request(0)))
        return post(link, request, *args, **options)

    monkeypatch.setattr(Link, "post", noting)
    await pool.add(wire.Route(0, "web", 1, (await backend(b"one"),)), {"a": listener})
    changes = [kind for kind in asked if kind is not wire.Snapshot]
    assert changes[:2] == [wire.Route, wire.Route]
    assert set(changes[2:]) == {wire.Listen}
    stream, answer = await greeting(listener)
    assert answer == b"one"
    await stream.aclose()


async def test_what_else_decides_is_asked_at_the_moment_of_the_switch(pool, listener, backend):
    """Else a client that the kernel hands over would meet the new generation before others do, or the old one after."""
    await pool.add(wire.Route(0, "web", 1, (await backend(b"one"),)), {"a": listener})
    waiting = []

    def also():
        held = pool._plans["web"].hold
        assert held
        assert held[0].generation == 2
        assert os.pread(held[1], 1, 0) == b"1", "it is decided: whatever becomes of control now, workers follow"
        waiting.extend(socket.create_connection(listener.getsockname()) for _ in range(5))

    await pool.switch(wire.Route(0, "web", 2, (await backend(b"two"),)), also=also)
    assert pool._plans["web"].hold is None
    for each in waiting:
        with each:
            each.settimeout(10)
            assert await trio.to_thread.run_sync(each.recv, 100) == b"two", "who comes meanwhile waits for it"


async def test_listeners_that_backends_accept_on_are_only_kept_by_every_worker(pool, listener, backend, nursery):
    await pool.add(wire.Route(0, "web", 1, (await backend(b"worker"),)), {"a": listener}, accept=False)
    stream = await trio.open_tcp_stream(*listener.getsockname())
    with trio.move_on_after(0.2):
        assert not await stream.receive_some(100)
    pool.workers[0].process.kill()
    with trio.fail_after(20):
        while len({each.pid for each in pool.workers if each.served.is_set()}) < 2 or pool.restarts < 1:
            await trio.sleep(0.01)
    with trio.move_on_after(0.2):
        assert not await stream.receive_some(100), "one that is started later keeps it too"
    accepted, _ = await trio.to_thread.run_sync(accept, listener)
    accepted.close()
    await stream.aclose()
    await pool.listen("web", {"a": listener})
    stream, answer = await greeting(listener)
    assert answer == b"worker"
    await stream.aclose()
    await pool.listen("web", {"a": listener}, accept=False)
    late = await trio.open_tcp_stream(*listener.getsockname())
    with trio.move_on_after(0.2):
        assert not await late.receive_some(100)
    await late.aclose()


async def test_addresses_that_change_with_who_accepts_are_given_up_by_the_workers(pool, listener, backend):
    """A port that workers keep for ever is nobody else's."""
    address = Address(host="127.0.0.1", port=0)
    await pool.add(wire.Route(0, "web", 1, (await backend(b"worker"),)), {"a": listener})
    with listeners.bind(address, blocking=True) as other:
        await pool.listen("web", {"b": other}, accept=False)
        port = listener.getsockname()[1]
        listener.close()
        listeners.bind(Address(host="127.0.0.1", port=port)).close()


async def test_every_worker_writes_the_access_log_that_was_asked_for(tmp_path, nursery):
    pool = WorkerPool(2, tmp_path, Bus(), "json", tmp_path / "access.log")
    await nursery.start(pool.run)
    for each in pool.workers:
        arguments = (await trio.Path(f"/proc/{each.process.pid}/cmdline").read_text()).split("\0")
        assert arguments[arguments.index("--access-log") + 1] == str(tmp_path / "access.log")
        assert arguments[arguments.index("--log-format") + 1] == "json"
    nursery.cancel_scope.cancel()
