"""Workers are killed, by themselves and while one takes over from another: what is lost is what the dead one had."""

from __future__ import annotations

import contextlib
import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e import configs, http_harness
from tests.e2e.crash_harness import Calm, KeptLoad, Mortal, serving
from tests.e2e.crashing import Order
from tests.e2e.harness import Held, eventually, free_port, held, is_alive, kill
from tests.e2e.http_harness import FULL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TWO = "workers = 2\n"
HELD = 60
LOAD = 3
RUNS = 20 if FULL else 4
STEPS = (
    *("rehearsed", "before-exec", "after-exec", "before-newcomer", "newcomer-starts", "newcomer-ready"),
    *("handover-sent", "takeover-sent", "taken", "newcomer-told", "old-told"),
    *("relieved-one", "relieved-all", "exit-sent"),
)
POINTS = STEPS if os.environ.get("CRASHES_FULL") else ("takeover-sent", "relieved-one")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def proxy(tmp_path: Path, port: int) -> Iterator[Mortal]:
    with Mortal(tmp_path, TWO + configs.service(port)) as proxy:
        yield proxy


def test_each_worker_killed_in_turn_takes_its_own_connections_along_and_nothing_else(tmp_path: Path, port: int) -> None:
    site = free_port()
    config = TWO + configs.service(port) + http_harness.service(site, name="site")
    with Mortal(tmp_path, config) as proxy, Calm(port, 4) as load:
        for index in range(2):
            with held(port, 20) as clients, KeptLoad(site, 6) as kept:
                kept.wait_for(20)
                load.wait_for(10)
                status = proxy.status()["proxy"]["workers"]
                victim = status[index]["pid"]
                dead = kill(victim)
                eventually(lambda victim=victim: victim not in proxy.workers() and len(proxy.workers()) == 2)
                load.wait_for(20)
                lost = 20 - sum(_answers(client) for client in clients)
                kept.stop()
                # Short connections are among those that it had, and come and go.
                assert lost + len(kept.failures) <= status[index]["connections"]
                assert lost + len(kept.failures) >= status[index]["connections"] - load.clients
                assert not load.failed_since(dead)
        assert serving(port, proxy.workers()) == 1
        proxy.assert_nothing_is_lost()


def test_a_new_worker_killed_at_any_moment_of_an_upgrade_takes_only_along_what_it_had_taken(
    proxy: Mortal, port: int
) -> None:
    moments, kept_all = random.Random(6), 0
    with Calm(port, LOAD) as load:
        for _ in range(RUNS):
            with held(port, HELD) as clients:
                before = {each["pid"]: each["connections"] for each in proxy.status()["proxy"]["workers"]}
                with _upgrade(proxy) as ended, proxy.marked() as find:
                    new = eventually(
                        lambda before=before, find=find: _newcomer(proxy, find, before), what="a new worker"
                    )
                    time.sleep(moments.uniform(0.0, 0.5))
                    dead = kill(new)
                    ended()
                eventually(lambda: len(proxy.workers()) == 2, what="there are two workers")
                lost = HELD - sum(_answers(client) for client in clients)
                load.wait_for(10)
                # All of a worker's connections go in one round: they are the old one's, or the new one's. Some of
                # those that were counted are the load's.
                assert not lost or min(before.values()) - LOAD <= lost <= max(before.values())
                kept_all += not lost
                assert not load.failed_since(dead)
                load.failures.clear()
        assert kept_all, "some were killed before they had taken anything"
        assert serving(port, proxy.workers()) == 1
    proxy.operate("swap", version="v2")
    proxy.assert_nothing_is_lost()


def test_an_old_worker_that_is_killed_when_it_has_handed_over_takes_nothing_along(proxy: Mortal, port: int) -> None:
    with held(port, HELD) as clients, Calm(port, 3) as load:
        old = proxy.workers()
        with _upgrade(proxy) as ended:
            ended()
        for pid in old:
            with contextlib.suppress(ProcessLookupError):
                kill(pid)
        assert all(_answers(client) for client in clients)
        load.wait_for(20)
        load.stop()
        assert not load.errors
        assert not set(old) & set(proxy.workers())
    proxy.assert_nothing_is_lost()


def test_control_killed_at_any_moment_of_an_upgrade_loses_nothing(proxy: Mortal, port: int) -> None:
    moments = random.Random(7)
    with held(port, HELD) as clients, Calm(port, 3) as load:
        for _ in range(RUNS):
            status, answer = proxy.ask("POST", "/v1/upgrade")
            assert status == 202, answer
            time.sleep(moments.uniform(0.0, 2.5))
            proxy.crash()
            assert all(_answers(client) for client in clients)
            load.wait_for(10)
            proxy.start()
            eventually(lambda: proxy.status()["proxy"].get("upgrade") is None, what="no upgrade is under way")
            assert all(_answers(client) for client in clients)
            assert len(proxy.pids()) == 1
            assert serving(port, proxy.workers()) == 1
        load.stop()
        assert not load.errors
        proxy.assert_nothing_is_lost()
        eventually(lambda: len(proxy.workers()) == 2, what="no worker is left over")
    proxy.operate("swap", version="v2")


@pytest.mark.parametrize("point", POINTS)
def test_control_killed_between_any_two_steps_of_an_upgrade_loses_nothing(proxy: Mortal, port: int, point: str) -> None:
    """After some of them there are two workers in one place, and both have connections."""
    with held(port, HELD) as clients, Calm(port, 3) as load:
        Order(point).write(proxy.order)
        status, answer = proxy.ask("POST", "/v1/upgrade")
        assert status == 202, answer
        proxy.wait_crash()
        assert all(_answers(client) for client in clients)
        load.wait_for(10)
        proxy.start()
        eventually(lambda: _is_over(proxy), what="no upgrade is under way")
        eventually(lambda: len(proxy.workers()) == 2, what="no worker is left over")
        assert all(_answers(client) for client in clients)
        assert serving(port, proxy.workers()) == 1
        load.stop()
        assert not load.errors
    proxy.assert_nothing_is_lost()
    proxy.operate("swap", version="v2")


@contextlib.contextmanager
def _upgrade(proxy: Mortal) -> Iterator[Callable[[], None]]:
    """Begin an upgrade; yields a function that waits for its end, whatever that is."""
    status, answer = proxy.ask("POST", "/v1/upgrade")
    assert status == 202, answer

    def wait() -> None:
        """The event stream breaks with the exec, so look again."""
        eventually(lambda: _is_over(proxy), what="the upgrade is over")

    yield wait


def _is_over(proxy: Mortal) -> bool:
    try:
        status = proxy.status()["proxy"]
    except (OSError, IndexError, ValueError):
        return False
    return bool(status.get("upgrade") is None)


def _newcomer(proxy: Mortal, find: Callable[[], list[int]], known: dict[int, int]) -> int | None:
    """A worker that was not there before."""
    for pid in find():
        if pid in known or pid == proxy.pid or not is_alive(pid):
            continue
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"proxy.relay" in file.read():
                return pid
    return None


def _answers(client: Held) -> bool:
    try:
        return client.ask().startswith("v1 ")
    except (OSError, ValueError):
        return False
