"""Whatever dies, connections that the kernel steers go on; and what is found again is one thing, not two."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from tests.e2e.crash_harness import Calm, assert_one_step
from tests.e2e.crashing import Order
from tests.e2e.harness import Events, Load, eventually, fetch, free_port, kill
from tests.e2e.steer.clients import Standing
from tests.e2e.steer.harness import Steered, service
from tests.e2e.steer.kernel import marked, steerings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.steer.kernel import Steering

TWO = "workers = 2\n"
STEPS = ["before-steering", "steered", "draining"]
if os.environ.get("CRASHES_FULL"):
    STEPS = ["held", "decided", *STEPS, "route-sent-to-one", "switched", "switch-not-on-file"]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def proxy(tmp_path: Path, port: int) -> Iterator[Steered]:
    # Who comes while nobody is there to start the backend again waits as long as that takes.
    with Steered(tmp_path, TWO + service(port, keys='connect_timeout = "60s"')) as proxy:
        yield proxy


def only(port: int) -> Steering:
    """What steers the port: one program, one link, each map once."""
    (steering,) = steerings(port)
    assert len(steering.links) == 1
    return steering


def test_who_comes_while_a_killed_backend_is_away_waits_and_is_served_and_nobody_is_refused(
    proxy: Steered, port: int
) -> None:
    with Load(port, 8) as load:
        for restarts in (1, 2):
            load.wait_for(50)
            (old,) = proxy.pids()
            dead = kill(old)
            load.wait_for(50)
            assert not load.failed_since(dead)
            assert proxy.active()["replicas"][0]["restarts"] == restarts
            proxy.wait_steered(port)
        load.stop()
    assert not [error for error in load.errors if "refused" in error.lower()]
    assert proxy.counts()[1] > 0
    assert proxy.generation(1)
    proxy.assert_steered()


def test_control_killed_and_then_every_worker_and_nobody_notices_and_the_next_one_finds_all_again(
    proxy: Steered, port: int, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with Standing(port, 50) as clients:
        with Calm(port, 3) as load:
            before = only(port)
            workers, (backend,) = proxy.workers(), proxy.pids()
            load.wait_for(10)
            steered = proxy.counts()[0]
            proxy.crash()
            load.wait_for(10)
            for worker in workers:
                kill(worker)
            load.wait_for(20)
            clients.ask()
            # One that starts removes what dead ones left. This one is not quite dead.
            with Steered(tmp_path / "other", service(free_port())):
                load.wait_for(10)

            proxy.start()
            assert only(port) == before
            proxy.assert_steered()
            assert proxy.pids() == [backend]
            assert proxy.counts()[0] >= steered + 40
            assert len(proxy.workers()) == 2
            load.wait_for(10)
            load.stop()
            assert not load.errors
        clients.ask()
        eventually(lambda: proxy.active()["connections"] == 50, what="each is counted, once")
        assert proxy.operate("swap", version="v2", deadline="300ms")["forced"] == 50
    with Standing(port, 3):
        proxy.stop("--now")
    eventually(before.is_gone, what="nothing is left")
    assert not steerings(port)
    assert not marked(port)


def test_control_killed_in_a_drain_and_the_next_one_counts_on_and_ends_it_by_its_deadline(
    proxy: Steered, port: int
) -> None:
    with Events(proxy) as events, Standing(port, 20) as clients:
        proxy.begin_swap(events, "v2", deadline="60s")
        with Standing(port, 5) as later:
            proxy.crash()
            clients.sockets.pop().close()
            assert fetch(port).startswith("v2 ")
            proxy.start()
            drain = eventually(lambda: (old := proxy.generation(1)) and old["drain"], what="it drains on")
            assert (drain["initial"], drain["remaining"]) == (20, 19)
            clients.ask()
            clients.close()
            eventually(lambda: proxy.generation(1) is None, what="the drain is over")
            (entry,) = proxy.history("web")[-1:]
            assert (entry["drained"], entry["forced"]) == (20, 0)
            later.ask()


def test_control_killed_at_any_step_of_a_swap_and_kernel_and_workers_agree_when_it_is_back(tmp_path: Path) -> None:
    """IPv6 clients show what the workers do: the backends have no socket that they could be steered to."""
    port = free_port()
    config = TWO + service([f"127.0.0.1:{port}", f"[::1]:{port}"], keys='connect_timeout = "60s"')
    with Steered(tmp_path, config) as proxy, Standing(port, 20) as clients:
        for point in STEPS:
            old = proxy.active()
            state = json.loads((proxy.state_dir / "state.json").read_text())
            newest = state["services"]["web"]["next_generation"] - 1
            version = "v2" if old["version"] == "v1" else "v1"
            with Calm(port, 3) as load:
                load.wait_for(5)
                proxy.die_in(Order(point, "web", version, newest + 1), "swap", version=version, deadline="600s")
                load.wait_for(10)
                meanwhile = int(fetch(port).split()[1])
                proxy.start()
                eventually(lambda: proxy.service()["operation"] is None, what="what was begun is over")
                found = {int(fetch(port, host=host).split()[1]) for host in ("127.0.0.1", "::1") for _ in range(5)}
                assert found == {proxy.active()["id"]}, point
                assert found <= {old["id"], newest + 1}, point
                assert meanwhile in found or meanwhile == old["id"], point
                load.wait_for(10)
                load.stop()
                assert not load.errors, point
                assert_one_step(load.answers, old["id"], newest + 1)
            clients.ask()
            assert {answer.split()[1] for answer in clients.answers} == {"1"}
            only(port)
            proxy.assert_steered()


def test_a_backend_that_died_while_control_was_away_is_started_again_and_steered_to(proxy: Steered, port: int) -> None:
    (old,) = proxy.pids()
    proxy.crash()
    kill(old)
    with Calm(port, 3) as load:
        proxy.start()
        load.wait_for(10)
        assert proxy.pids() != [old]
        proxy.wait_steered(port)
        load.stop()
        assert not load.errors


@pytest.mark.parametrize("survives", [True, False], ids=["its-backend-lives", "all-of-it-is-dead"])
def test_what_a_dead_proxy_left_does_not_steer_away_from_the_next_one(tmp_path: Path, survives: bool) -> None:
    port = free_port()
    folders = [tmp_path / "dead", tmp_path / "next"]
    for folder in folders:
        folder.mkdir()
    dead = Steered(folders[0], service(port))
    try:
        dead.start()
        backends, left = dead.pids(), only(port)
        victims = dead.workers() + ([] if survives else backends)
        dead.crash()
        for pid in victims:
            kill(pid)
        shutil.rmtree(dead.state_dir)
        if survives:
            assert fetch(port).endswith(f" {backends[0]}"), "the kernel still steers to it"
        with Steered(folders[1], service(port)) as proxy:
            new = only(port)
            assert new.program != left.program
            eventually(left.is_gone, what="what was left is gone")
            for _ in range(10):
                assert fetch(port).endswith(f" {proxy.pids()[0]}")
            proxy.assert_steered()
            proxy.stop()
        eventually(new.is_gone, what="all is gone")
        assert not steerings(port)
    finally:
        dead.kill()
        for pid in backends:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_worker_that_is_killed_takes_no_steered_connection_along(proxy: Steered, port: int) -> None:
    with Standing(port, 20) as clients, Calm(port, 3) as load:
        for worker in proxy.workers():
            kill(worker)
            load.wait_for(10)
            eventually(
                lambda worker=worker: worker not in proxy.workers() and len(proxy.workers()) == 2, what="a new worker"
            )
        clients.ask()
        load.stop()
        assert not load.errors
    proxy.operate("swap", version="v2")


def test_an_upgrade_of_the_proxy_is_not_noticed_and_steering_is_the_same_one(proxy: Steered, port: int) -> None:
    before = only(port)
    with Standing(port, 50) as clients, Calm(port, 3) as load, Events(proxy) as events:
        load.wait_for(10)
        proxy.begin_swap(events, "v2", deadline="60s")
        with Standing(port, 5) as later:
            proxy.ok("upgrade")
            assert only(port) == before
            drain = eventually(lambda: (old := proxy.generation(1)) and old["drain"], what="it drains on")
            assert drain["remaining"] == 50
            clients.ask()
            later.ask()
            load.wait_for(10)
            clients.close()
            eventually(lambda: proxy.generation(1) is None, what="the drain is over")
            later.ask()
        load.stop()
        assert not load.errors
    proxy.assert_steered()
    entry = proxy.history("web")[-1]
    assert (entry["forced"], entry["result"]) == (0, "swapped")
