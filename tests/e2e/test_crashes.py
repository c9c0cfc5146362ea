"""Processes that are killed: what is lost, what is not, and that everything comes back."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.e2e import configs
from tests.e2e.harness import (
    Events,
    Held,
    Load,
    Proxy,
    eventually,
    fetch,
    free_port,
    held,
    is_alive,
    kill,
    processes_of,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_while_a_killed_backend_is_away_new_connections_wait_and_then_succeed(tmp_path: Path) -> None:
    port = free_port()
    config = "workers = 2\n" + configs.service(port, keys='connect_timeout = "20s"')
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events, Load(port) as load:
        for _ in range(3):
            load.wait_for(50)
            (pid,) = proxy.pids()
            dead = kill(pid)
            eventually(lambda pid=pid: proxy.pids() not in ([pid], [None]), what="the backend was started again")
            load.wait_for(50)
            _only_what_it_had_was_lost(load, dead)
        assert proxy.active()["replicas"][0]["restarts"] == 3
        assert proxy.service()["state"] == "serving"
        assert events.wait(type="backend", state="restarting")["reason"].startswith("killed by SIGKILL")
        assert proxy.metrics().get("proxy_backend_restarts_total", service="web") == 3


def test_a_connection_begun_while_no_backend_is_there_is_served_when_it_is_back(tmp_path: Path) -> None:
    """The backend's next start takes as long as the test likes: its port is known, its program waits for a file."""
    port, go = free_port(), tmp_path / "go"
    os.mkfifo(go)
    serve = configs.backend().splitlines()[0].split(" = ", 1)[1]
    script = tmp_path / "start"
    script.write_text(f'#!/bin/sh\nread line < {go}\nexec "$@"\n')
    script.chmod(0o755)
    version = f'command = {serve.replace("[", f"""["{script}", """, 1)}\n'
    config = configs.service(port, keys='connect_timeout = "60s"', v1=version)
    with Proxy(tmp_path, config, wait=False) as proxy, Held(port, patient=True) as early:
        early.send()
        assert not early.has_answer(), "nothing listens yet, and the client is held"
        go.write_text("go\n")
        assert early.answer().startswith("v1 1 ")
        (pid,) = proxy.pids()
        kill(pid)
        with Held(port) as late:
            late.send()
            assert not late.has_answer()
            go.write_text("go\n")
            assert late.answer().split()[3] != str(pid)


def test_when_one_of_three_replicas_is_killed_no_new_connection_fails(tmp_path: Path) -> None:
    port = free_port()
    config = "workers = 2\n" + configs.service(port, v1=configs.backend(replicas=3))
    with Proxy(tmp_path, config) as proxy, Load(port) as load:
        for replica in range(3):
            load.wait_for(50)
            pid = proxy.pids()[replica]
            dead = kill(pid)
            load.wait_for(50)
            _only_what_it_had_was_lost(load, dead)
            eventually(
                lambda replica=replica, pid=pid: (
                    proxy.pids()[replica] not in (pid, None) and proxy.active()["replicas"][replica]["healthy"]
                ),
                what="the replica is back",
            )
        assert proxy.service()["state"] == "serving"
    assert len({answer.body.split()[2] for answer in load.answers}) == 3


def test_a_killed_worker_takes_only_its_own_connections_with_it(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, "workers = 2\n" + configs.service(port)) as proxy, held(port, 20) as clients:
        before = {worker["pid"]: worker["connections"] for worker in proxy.status()["proxy"]["workers"]}
        assert sum(before.values()) == 20
        with Events(proxy) as events, Load(port) as load:
            victim, lost = min(before.items(), key=lambda item: item[1])
            load.wait_for(50)
            dead = kill(victim)
            events.wait(type="worker", state="died", pid=victim)
            load.wait_for(50)
            events.wait(type="worker", state="started")
            load.wait_for(50)
            _only_what_it_had_was_lost(load, dead)
        assert sum(_still_there(client) for client in clients) == 20 - lost
        assert victim not in proxy.workers()
        assert len(proxy.workers()) == 2
        metrics = proxy.metrics()
        assert metrics.get("proxy_worker_restarts_total") == 1
        assert metrics.get("proxy_worker_up", worker="0") == metrics.get("proxy_worker_up", worker="1") == 1


def test_the_only_worker_killed_again_and_again_refuses_nobody(tmp_path: Path) -> None:
    """With nobody to accept, connections wait in the kernel's queue, which control keeps open."""
    port = free_port()
    with Proxy(tmp_path, "workers = 1\n" + configs.service(port)) as proxy, Events(proxy) as events, Load(port) as load:
        for _ in range(3):
            load.wait_for(50)
            (pid,) = proxy.workers()
            dead = kill(pid)
            events.wait(type="worker", state="died", pid=pid)
            eventually(lambda pid=pid: proxy.workers() not in ([], [pid]), what="a new worker")
            load.wait_for(50)
            _only_what_it_had_was_lost(load, dead)
        proxy.operate("swap", version="v2")
        assert fetch(port).startswith("v2 ")
    assert not load.failed_since(dead)


def test_a_worker_killed_in_the_middle_of_a_drain_does_not_hold_it_up(tmp_path: Path) -> None:
    port = free_port()
    config = "workers = 1\n" + configs.service(port, drain='deadline = "60s"')
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events, Held(port) as client:
        client.ask()
        number = proxy.begin("swap", version="v2")["id"]
        events.wait(operation=number, type="drain", remaining=1)
        os.kill(*proxy.workers(), signal.SIGKILL)
        assert events.wait(operation=number, type="result")["result"]["result"] == "swapped"
        with pytest.raises((OSError, ValueError)):
            client.ask()
        assert fetch(port).startswith("v2 ")


def test_after_control_was_killed_the_next_one_takes_over_what_runs(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy, processes_of(f"{tmp_path}/state") as ours:
        proxy.operate("swap", version="v2")
        (old,) = proxy.pids()
        workers = proxy.workers()
        with Held(port) as client:
            assert client.ask().startswith("v2 2 ")
            os.kill(proxy.pid, signal.SIGKILL)
            assert proxy.process
            proxy.process.wait()
            assert client.ask().startswith("v2 2 "), "bytes go on moving without control"
            assert fetch(port).startswith("v2 2 "), "and so do new connections"

            proxy.start()
            assert client.ask().startswith("v2 2 "), "who was connected before the crash still is"
            assert fetch(port).startswith("v2 2 ")
            assert (proxy.pids(), proxy.workers()) == ([old], workers)
            (generation,) = proxy.service()["generations"]
            assert (generation["id"], generation["version"], generation["state"]) == (2, "v2", "active")
            assert generation["connections"] == 1
        proxy.operate("swap", version="v1")
        assert fetch(port).startswith("v1 3 ")
        # It was an orphan; how soon init reaps that is not ours to say.
        eventually(lambda: not is_alive(old), what="what was taken over was stopped")
        assert proxy.workers() == workers
        proxy.kill()
        assert not ours()


def _only_what_it_had_was_lost(load: Load, dead: float) -> None:
    """What was begun before a process was dead may be lost with it; nothing that was begun later is."""
    assert not load.failed_since(dead)


def _still_there(client: Held) -> bool:
    try:
        return client.ask().startswith("v1 ")
    except (OSError, ValueError):
        return False
