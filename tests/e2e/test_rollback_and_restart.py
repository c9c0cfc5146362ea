"""Going back, and starting anew: at once where the old generation still runs, by a swap where it does not."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import Events, Held, Load, Proxy, eventually, fetch, free_port, is_alive
from tests.e2e.shared import shared_by

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.shared import Shared

WARM = 'keep_warm = "60s"'
TWO = {name: configs.backend(replicas=2) for name in ("v1", "v2")}
shared = shared_by(
    workers=2,
    warm={"drain": WARM},
    short={"drain": 'keep_warm = "500ms"'},
    gone={},
    draining={},
    first={},
    whole={"drain": WARM, **TWO},
    dead={"drain": WARM},
    restarted={},
)


def test_rollback_to_a_warm_generation_is_instant_and_the_same_processes_serve_again(shared: Shared) -> None:
    proxy, port = shared("warm")
    with Load(port) as load:
        (first,) = proxy.pids()
        proxy.operate("swap", version="v2")
        assert [each["state"] for each in proxy.service()["generations"]] == ["warm", "active"]
        (second,) = proxy.pids()
        load.wait_for(20)
        result = proxy.operate("rollback")
        assert (result["kind"], result["from"], result["to"]) == ("rollback", "v2", "v1")
        assert result["phases"]["start"] == result["phases"]["health"] == 0
        assert proxy.pids() == [first]
        load.wait_for(20)
        proxy.operate("rollback")  # and forth again
        assert proxy.pids() == [second]
        load.wait_for(20)
        assert [each["state"] for each in proxy.service()["generations"]] == ["warm", "active"]
    assert not load.errors
    assert {answer.generation for answer in load.answers} == {1, 2}


def test_a_warm_generation_is_stopped_when_its_time_is_over(shared: Shared) -> None:
    proxy, _ = shared("short")
    (old,) = proxy.pids()
    proxy.operate("swap", version="v2")
    assert is_alive(old)
    eventually(lambda: not is_alive(old), what="the warm backend is stopped")
    eventually(lambda: len(proxy.service()["generations"]) == 1, what="and forgotten")
    result = proxy.operate("rollback")
    assert result["phases"]["start"] > 0


def test_rollback_to_a_generation_that_is_gone_is_a_swap(shared: Shared) -> None:
    proxy, port = shared("gone")
    with Load(port, 4) as load:
        proxy.operate("swap", version="v2")
        load.wait_for(10)
        result = proxy.operate("rollback")
        assert (result["kind"], result["to"]) == ("rollback", "v1")
        assert result["phases"]["health"] > 0
        load.wait_for(10)
        assert fetch(port).startswith("v1 3 ")
        assert proxy.ok("rollback", "--no-wait", "--service", "gone") is not None
        eventually(lambda: fetch(port).startswith("v2 4 "), what="back again")
    assert not load.errors


def test_rollback_while_the_old_generation_drains_revives_it(shared: Shared) -> None:
    proxy, port = shared("draining")
    with Events(proxy) as events, Held(port) as held, Held(port) as gone:
        held.ask()
        gone.ask()
        (old,) = proxy.pids()
        swap = proxy.begin("swap", version="v2", deadline="60s")["id"]
        events.wait(operation=swap, type="drain", remaining=2)
        gone.close()
        events.wait(operation=swap, type="drain", remaining=1)
        result = proxy.operate("rollback")
        assert (result["to"], result["phases"]["start"]) == ("v1", 0)
        assert fetch(port) == f"v1 1 0 {old}"
        assert held.ask() == f"v1 1 0 {old}", "the connection that was draining goes on"
        ended = events.wait(operation=swap, type="result")["result"]
        assert (ended["result"], ended["drained"], ended["forced"]) == ("swapped", 1, 0)
        assert proxy.generation(1)["drain"] is None  # type: ignore[index]


def test_rollback_without_anything_to_go_back_to_says_so(shared: Shared) -> None:
    proxy, port = shared("first")
    done = proxy.ctl("rollback", "--service", "first")
    assert done.returncode == 1
    assert "nothing to roll back to" in done.stderr
    assert fetch(port).startswith("v1 1 ")


def test_a_revived_generation_is_whole_again_also_after_one_of_its_replicas_had_died(shared: Shared) -> None:
    proxy, port = shared("whole")
    with Events(proxy) as events:
        victim, _ = proxy.pids()
        proxy.operate("swap", version="v2")
        os.kill(victim, signal.SIGKILL)
        events.wait(type="health", state="unhealthy", generation=1, service="whole")
        proxy.operate("rollback")
        assert fetch(port).startswith("v1 ")
        eventually(lambda: all(each["healthy"] for each in proxy.active()["replicas"]), what="both replicas serve")


def test_a_warm_generation_that_has_died_is_rolled_back_to_by_a_swap(shared: Shared) -> None:
    proxy, port = shared("dead")
    with Events(proxy) as events:
        (victim,) = proxy.pids()
        proxy.operate("swap", version="v2")
        os.kill(victim, signal.SIGKILL)
        events.wait(type="health", state="unhealthy", generation=1, service="dead")
        result = proxy.operate("rollback")
        assert result["phases"]["start"] > 0
        assert fetch(port).startswith("v1 3 ")


def test_restart_makes_a_new_generation_of_the_active_version_without_a_gap(shared: Shared) -> None:
    proxy, port = shared("restarted")
    with Load(port) as load:
        (old,) = proxy.pids()
        load.wait_for(20)
        result = proxy.operate("restart")
        assert (result["kind"], result["from"], result["to"], result["generation"]) == ("restart", "v1", "v1", 2)
        load.wait_for(20)
        assert not is_alive(old)
        assert proxy.ok("restart", "--service", "restarted")
        load.wait_for(20)
    assert not load.errors
    assert {answer.body.split()[:2] == ["v1", str(answer.generation)] for answer in load.answers} == {True}
    assert {answer.generation for answer in load.answers} == {1, 2, 3}


def test_sigusr1_restarts_every_service(tmp_path: Path) -> None:
    web, other = free_port(), free_port()
    config = configs.service(web) + configs.service(other, name="other")
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events:
        os.kill(proxy.pid, signal.SIGUSR1)
        for service in ("web", "other"):
            result = events.wait(type="result", service=service)["result"]
            assert (result["kind"], result["result"]) == ("restart", "swapped")
        assert fetch(web).startswith("v1 2 ")
        assert fetch(other).startswith("v1 2 ")
