"""Backends that accept on the public listener themselves, while control, workers or they are killed or replaced."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from tests.e2e.crash_harness import Calm, Mortal
from tests.e2e.crashing import Order
from tests.e2e.harness import Events, eventually, fetch, free_port, held, is_alive, kill
from tests.e2e.inherited_harness import heir, listener, parked, patient_uvicorn, service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TWO = "workers = 2\n"
BEFORE = ["spawned", "backend-on-file", "healthy", "before-switch"]
AFTER = ["decided", "switched", "switch-on-file", "drain-begins", "draining", "before-stop", "before-history"]
POINTS = BEFORE + AFTER if os.environ.get("CRASHES_FULL") else ["decided", "switch-on-file"]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def proxy(tmp_path: Path, port: int) -> Iterator[Mortal]:
    with Mortal(tmp_path, TWO + service(port)) as proxy:
        yield proxy


def test_control_killed_and_started_again_takes_all_over_and_nobody_notices(proxy: Mortal, port: int) -> None:
    before, pids, workers = listener(port), proxy.pids(), proxy.workers()
    with held(port, 10) as clients, Calm(port, 3) as load:
        load.wait_for(5)
        proxy.crash()
        load.wait_for(5)
        proxy.start()
        assert (proxy.pids(), proxy.workers()) == (pids, workers)
        assert listener(port) == before
        eventually(lambda: proxy.active()["connections"] >= 10, what="its connections are known")
        for number, version in enumerate(("v2", "v3")):
            with Events(proxy) as events:
                operation = proxy.begin("swap", version=version)["id"]
                if number == 0:
                    assert {client.ask().split()[0] for client in clients} == {"v1"}
                    for client in clients:
                        client.close()
                ended = events.wait(operation=operation, type="result")["result"]
                assert (ended["result"], ended["forced"]) == ("swapped", 0)
                assert ended["overlap"] > 0
            load.wait_for(5)
        assert ended["to"] == "v3"
        load.stop()
        assert not load.errors
        assert listener(port) == before
        eventually(lambda: not is_alive(pids[0]), what="it has gone")
    proxy.assert_nothing_is_lost()


def test_a_server_that_does_not_block_is_taken_over_too(tmp_path: Path, port: int) -> None:
    version = patient_uvicorn(tmp_path)
    with Mortal(tmp_path, TWO + service(port, v1=version, v2=version)) as proxy, Calm(port, 2) as load:
        load.wait_for(3)
        proxy.crash()
        load.wait_for(3)
        proxy.start()
        load.wait_for(3)
        load.stop()
        assert fetch(port, timeout=5).startswith("v1 1 "), "alone, there is no next one to wake it"
        proxy.operate("swap", version="v2")
        assert fetch(port, timeout=5).startswith("v2 2 ")
        assert not load.errors


def test_control_killed_while_the_old_version_lets_go_sees_it_off_when_it_is_back(proxy: Mortal, port: int) -> None:
    (old,) = proxy.pids()
    with held(port, 5) as clients, Events(proxy) as events:
        operation = proxy.begin("swap", version="v2", deadline="60s")["id"]
        events.wait(operation=operation, phase="drain", state="begin")
        proxy.crash()
        proxy.start()
        assert {client.ask().split()[0] for client in clients} == {"v1"}
        assert {fetch(port).split()[0] for _ in range(5)} == {"v2"}
        for client in clients:
            client.close()
        eventually(lambda: not is_alive(old), what="it has gone")
        (entry,) = eventually(lambda: proxy.history("web"), what="the swap has ended")
        assert (entry["result"], entry["to"], entry["forced"]) == ("swapped", "v2", 0)
    proxy.assert_nothing_is_lost()


def test_control_killed_while_the_old_version_ignores_its_signal_kills_it_at_the_deadline(
    tmp_path: Path, port: int
) -> None:
    config = TWO + service(port, v1=heir("--stubborn"), v2=heir())
    with Mortal(tmp_path, config) as proxy, held(port, 2) as clients:
        (old,) = proxy.pids()
        proxy.begin("swap", version="v2", deadline="3s")
        eventually(lambda: "told to stop" in proxy.ok("logs", "v1"), what="it was told to stop")
        proxy.crash(at_once=True)
        proxy.start()
        eventually(lambda: not is_alive(old), within=15, what="it has been killed")
        for client in clients:
            assert not client.rest()
        assert all(fetch(port).startswith("v2 2 ") for _ in range(5))
        (entry,) = eventually(lambda: proxy.history("web"), what="the swap has ended")
        assert (entry["result"], entry["to"], entry["forced"]) == ("swapped", "v2", 2)
        proxy.assert_nothing_is_lost()


def test_a_backend_that_dies_while_control_is_away_is_waited_for_in_the_queue(proxy: Mortal, port: int) -> None:
    before, (old,) = listener(port), proxy.pids()
    proxy.crash()
    kill(old)
    with parked(port, 20) as clients:  # nobody but the workers has the listener now
        assert not clients[0].has_answer()
        proxy.start(wait=False)
        assert {client.answer().split()[0] for client in clients} == {"v1"}
    proxy.wait_ready()
    assert listener(port) == before
    proxy.operate("swap", version="v2")


@pytest.mark.parametrize("point", POINTS)
def test_control_killed_at_a_step_of_a_swap_goes_on_from_there(tmp_path: Path, port: int, point: str) -> None:
    with Mortal(tmp_path, TWO + service(port)) as proxy, Calm(port, 3) as load:
        before = listener(port)
        load.wait_for(5)
        proxy.die_in(Order(point, "web", "v2", 2), "swap", version="v2")
        load.wait_for(5)
        proxy.start()
        (entry,) = eventually(lambda: proxy.history("web"), what="the swap has ended")
        serves = "v2 2 " if entry["result"] == "swapped" else "v1 1 "
        assert (entry["result"] == "swapped") == (point not in BEFORE)
        proxy.assert_nothing_is_lost()
        eventually(lambda: len(proxy.service()["generations"]) == 1, what="the other one has gone")
        assert all(fetch(port).startswith(serves) for _ in range(5))
        load.stop()
        assert not load.errors
        assert listener(port) == before
        proxy.operate("swap", version="v3")


def test_a_swap_that_control_died_in_before_the_switch_has_changed_nothing(tmp_path: Path, port: int) -> None:
    with Mortal(tmp_path, TWO + service(port, v1=heir(), v2=heir("--mute"))) as proxy:
        (old,) = proxy.pids()
        with Events(proxy) as events:
            operation = proxy.begin("swap", version="v2")["id"]
            events.wait(operation=operation, phase="health", state="begin")
            proxy.crash(at_once=True)
        proxy.start()
        assert proxy.pids() == [old]
        eventually(lambda: {fetch(port).split()[3] for _ in range(10)} == {str(old)}, what="the candidate has gone")
        assert "told to stop" not in proxy.ok("logs", "v1")
        proxy.assert_nothing_is_lost()


def test_a_worker_that_is_killed_is_missed_by_nobody(proxy: Mortal, port: int) -> None:
    before = listener(port)
    with held(port, 5) as clients, Calm(port, 3) as load:
        for worker in proxy.workers():
            kill(worker)
            load.wait_for(5)
            eventually(
                lambda worker=worker: worker not in proxy.workers() and len(proxy.workers()) == 2, what="a new worker"
            )
        assert {client.ask().split()[1] for client in clients} == {"1"}
        load.wait_for(5)
        load.stop()
        assert not load.errors
    proxy.crash()  # the new workers have the listener too
    proxy.start()
    assert listener(port) == before
    proxy.operate("swap", version="v2")


def test_an_upgrade_of_the_proxy_is_noticed_by_nobody(proxy: Mortal, port: int) -> None:
    before, pids = listener(port), proxy.pids()
    with contextlib.ExitStack() as stack:
        clients = stack.enter_context(held(port, 10))
        load = stack.enter_context(Calm(port, 3))
        load.wait_for(5)
        proxy.ok("upgrade")
        load.wait_for(5)
        assert (listener(port), proxy.pids()) == (before, pids)
        assert {client.ask().split()[1] for client in clients} == {"1"}
        for client in clients:
            client.close()
        assert proxy.operate("swap", version="v2")["overlap"] > 0
        load.wait_for(5)
        load.stop()
        assert not load.errors
    proxy.assert_nothing_is_lost()
