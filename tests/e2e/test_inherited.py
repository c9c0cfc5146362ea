"""Backends that accept on the public listener themselves: what they are given, and what the proxy still sees to."""

from __future__ import annotations

import json
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e import inherited_harness
from tests.e2e.crash_harness import Calm, Mortal
from tests.e2e.harness import Events, Held, Proxy, eventually, fetch, free_port, held, is_alive, kill
from tests.e2e.inherited_harness import Unprivileged, heir, parked, service, stopped

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def proxy(tmp_path: Path, port: int) -> Iterator[Proxy]:
    with Proxy(tmp_path, service(port)) as proxy:
        yield proxy


# What they are given.


def test_every_listener_is_handed_on_as_a_service_manager_would(tmp_path: Path, port: int) -> None:
    public = tmp_path / "public.sock"
    listen = [f"127.0.0.1:{port}", f"unix:{public}", f"[::1]:{port}"]
    with Proxy(tmp_path, service(listen)) as proxy:
        for version, generation in (("v1", 1), ("v2", 2)):
            answer = f"{version} {generation} 0 {proxy.pids()[0]} 3 web:web:web"
            assert fetch(port) == f"{answer} 3"
            with Held(path=public) as local:
                assert local.ask() == f"{answer} 4"
                assert proxy.active()["connections"] == 1
            assert fetch(port, host="::1") == f"{answer} 5"
            if generation == 1:
                proxy.operate("swap", version="v2")
        proxy.ok("stop")
        assert not public.exists()


def test_a_backend_with_a_port_of_its_own_is_checked_there(tmp_path: Path, port: int) -> None:
    version = heir("--port={port}", "--mute")
    with Proxy(tmp_path, service(port, health='type = "http"\ninterval = "50ms"', v1=version, v2=version)) as proxy:
        (replica,) = proxy.active()["replicas"]
        private = int(replica["address"].rpartition(":")[2])
        assert private != port
        assert fetch(private).split()[-1] != "3"
        assert fetch(port).split()[-1] == "3"
        proxy.operate("swap", version="v2")
        assert fetch(port).startswith("v2 2 ")


def test_every_replica_accepts_and_the_rest_goes_on_when_one_dies(tmp_path: Path, port: int) -> None:
    with Proxy(tmp_path, service(port, v1=heir(replicas=2), v2=heir(replicas=2))) as proxy, Calm(port, 3) as load:
        for generation in (1, 2):
            pids = proxy.pids()
            eventually(lambda pids=pids: {fetch(port).split()[3] for _ in range(10)} == set(map(str, pids)))
            if generation == 1:
                proxy.operate("swap", version="v2")
        with stopped(pids[0]):  # it is between connections then
            load.wait_for(10)
            kill(pids[0])
        load.wait_for(10)
        eventually(lambda: len({*proxy.pids(), None} - {pids[0]}) == 3, what="it is started again")
        load.wait_for(10)
        load.stop()
        assert not [error for error in load.errors if "Refused" in error]
        assert len(load.failures) <= 1, "the one that it was serving"


def test_an_ordinary_user_needs_nothing_for_it(tmp_path: Path, port: int) -> None:
    with Unprivileged(tmp_path, service(port)) as proxy, Calm(port, 3) as load:
        for version in ("v2", "v1"):
            load.wait_for(5)
            with Held(port) as client:
                client.ask()
                assert proxy.active()["connections"] >= 1
            assert proxy.operate("swap", version=version)["overlap"] > 0
        load.wait_for(5)
        load.stop()
        assert not load.errors
        assert proxy.service()["datapath"] == "inherit"
        assert "CapEff:\t0000000000000000\n" in Path(f"/proc/{proxy.pids()[0]}/status").read_text()


# How one gives way to the next.


def test_swap_says_for_how_long_both_versions_accepted(proxy: Proxy) -> None:
    assert "both generations accepted for at most " in proxy.ok("swap", "v2")
    result = proxy.swap("v3")
    assert 0 < result["overlap"] < 10
    assert "OVERLAP" in proxy.ok("history")
    assert [entry["overlap"] > 0 for entry in json.loads(proxy.ok("history", "--json"))["history"]] == [True, True]


def test_connections_stay_with_their_version_and_may_finish(proxy: Proxy, port: int) -> None:
    with held(port, 5) as clients, Events(proxy) as events:
        number = proxy.begin("swap", version="v2")["id"]
        assert events.wait(operation=number, type="drain")["remaining"] == 5
        events.wait(operation=number, phase="switch", state="end")
        eventually(lambda: fetch(port).startswith("v2 2 "), what="the new version alone accepts")
        assert {client.ask().split()[0] for client in clients} == {"v1"}
        assert all(fetch(port).startswith("v2 2 ") for _ in range(5))
        for client in clients:
            client.close()
        ended = events.wait(operation=number, type="result")["result"]
        assert (ended["drained"], ended["forced"]) == (5, 0)


def test_a_version_that_keeps_its_copy_of_the_listener_drains_like_any_other(tmp_path: Path, port: int) -> None:
    """It accepts no more, which nobody can see: uvicorn is one of those."""
    config = service(port, v1=heir("--keep"), v2=heir(), v3=heir())
    with Proxy(tmp_path, config) as proxy, held(port, 3) as clients, Events(proxy) as events:
        number = proxy.begin("swap", version="v2", deadline="60s")["id"]
        assert events.wait(5, operation=number, type="drain")["remaining"] == 3
        old = proxy.generation(1)
        assert old
        assert old["state"] == "draining"
        proxy.operate("swap", version="v3")
        assert {client.ask().split()[0] for client in clients} == {"v1"}
        for client in clients:
            client.close()
        ended = events.wait(operation=number, type="result")["result"]
        assert (ended["drained"], ended["forced"]) == (3, 0)


def test_who_waits_to_be_accepted_by_a_version_that_hangs_is_served_by_the_next_one(proxy: Proxy, port: int) -> None:
    (old,) = proxy.pids()
    with stopped(old), parked(port, 20) as clients:
        assert not clients[0].has_answer()
        ended = proxy.operate("swap", version="v2", deadline="400ms")
        assert {client.answer().split()[0] for client in clients} == {"v2"}
        assert (ended["drained"], ended["forced"]) == (0, 0)
        assert not is_alive(old)


def test_a_version_that_does_not_stop_is_killed_at_the_deadline_and_its_connections_counted(
    tmp_path: Path, port: int
) -> None:
    with Proxy(tmp_path, service(port, v1=heir("--stubborn"), v2=heir())) as proxy, held(port, 3) as clients:
        (old,) = proxy.pids()
        began = time.monotonic()
        ended = proxy.operate("swap", version="v2", deadline="800ms")
        assert 0.8 <= ended["overlap"] < 8
        assert (ended["drained"], ended["forced"]) == (0, 3)
        assert time.monotonic() - began < 8, "stop_timeout is not waited for on top of the deadline"
        assert not is_alive(old)
        for client in clients:
            assert not client.rest()
        assert all(fetch(port).startswith("v2 2 ") for _ in range(5))
        assert proxy.metrics().get("proxy_drain_forced_connections_total", service="web") == 3


def test_a_version_that_is_never_ready_fails_the_swap_and_the_old_one_was_never_told_to_stop(
    tmp_path: Path, port: int
) -> None:
    mute = heir("--mute", "--late=60", "--status=loading")
    health, drain = 'start_timeout = "600ms"', 'stop_timeout = "200ms"'
    with Proxy(tmp_path, service(port, health=health, drain=drain, v1=heir(), v2=mute)) as proxy, Held(port) as client:
        (old,) = proxy.pids()
        client.ask()
        failed = proxy.swap("v2")
        assert failed["result"] == "failed"
        assert "has not said READY=1" in failed["error"]
        assert '"loading"' in failed["error"]
        assert "overlap" not in failed
        assert "told to stop" not in proxy.ok("logs", "v1")
        assert client.ask() == fetch(port)
        assert fetch(port).split()[3] == str(old)
        client.close()  # else the restart waits for it
        proxy.operate("restart")


def test_a_pause_is_refused_and_says_why(proxy: Proxy, port: int) -> None:
    done = proxy.ctl("pause")
    assert done.returncode == 1
    assert "its backends accept on the public listener themselves" in done.stderr
    assert proxy.service()["state"] == "serving"
    assert fetch(port).startswith("v1 1 ")


def test_a_version_that_shuts_the_listener_down_does_not_end_it_for_the_next_one(tmp_path: Path, port: int) -> None:
    with Proxy(tmp_path, service(port, v1=heir("--shutdown"), v2=heir())) as proxy:
        listener = inherited_harness.listener(port)
        proxy.operate("swap", version="v2")
        assert all(fetch(port).startswith("v2 2 ") for _ in range(5))
        assert inherited_harness.listener(port) == listener
        assert "shut the public listener down" in proxy.log_text()


# What may go wrong.


def test_while_the_only_backend_is_dead_clients_wait_and_are_served_when_it_is_back(proxy: Proxy, port: int) -> None:
    listener = inherited_harness.listener(port)
    for restarts in (1, 2):
        (old,) = proxy.pids()
        kill(old)
        with parked(port, 20) as clients:
            answers = {client.answer() for client in clients}
        (new,) = proxy.pids()
        assert answers == {f"v1 1 0 {new} 1 web 3"}
        assert new != old
        assert proxy.active()["replicas"][0]["restarts"] == restarts
    assert inherited_harness.listener(port) == listener


def test_a_restart_is_not_noticed(proxy: Proxy, port: int) -> None:
    with Calm(port, 4) as load:
        load.wait_for(5)
        proxy.ok("restart")
        load.wait_for(5)
        load.stop()
        assert not load.errors
    assert fetch(port).startswith("v1 2 ")


def test_a_rollback_starts_the_version_before_anew(proxy: Proxy, port: int) -> None:
    proxy.operate("swap", version="v2")
    assert proxy.operate("rollback")["overlap"] > 0
    assert fetch(port).startswith("v1 3 ")


def test_after_a_stop_nothing_is_left(tmp_path: Path, port: int) -> None:
    before = set(Path(tempfile.gettempdir()).glob("proxyctl-*"))
    with Mortal(tmp_path, service(port)) as proxy, proxy.marked() as find:
        with Held(port) as client:
            client.ask()
            stopping = proxy.popen("stop")
            eventually(lambda: _refuses(port), what="the listener is closed")
            assert client.ask().startswith("v1 1 "), "who is there may finish"
        stopping.communicate()
        assert stopping.returncode == 0
        assert proxy.process
        assert proxy.process.wait(10) == 0
        assert not find()
        assert not list(proxy.state_dir.glob("sockets/*"))
        assert set(Path(tempfile.gettempdir()).glob("proxyctl-*")) <= before


def test_a_stop_at_once_does_not_wait_for_a_version_that_does_not_stop(tmp_path: Path, port: int) -> None:
    with Proxy(tmp_path, service(port, v1=heir("--stubborn"))) as proxy, held(port, 2) as clients:
        (old,) = proxy.pids()
        proxy.ok("stop", "--now", timeout=10)
        assert not is_alive(old)
        for client in clients:
            assert not client.rest()


def test_a_swap_that_waits_for_a_version_that_does_not_stop_is_cut_short_by_a_stop(tmp_path: Path, port: int) -> None:
    with Proxy(tmp_path, service(port, v1=heir("--stubborn"), v2=heir())) as proxy:
        (old,) = proxy.pids()
        with Events(proxy) as events:
            proxy.begin("swap", version="v2", deadline="60s")
            events.wait(service="web", phase="switch", state="begin")
            eventually(lambda: proxy.service()["active"] == "v2", what="it has switched")
            (new,) = proxy.pids()
            proxy.ok("stop", "--now", timeout=15)
        assert not is_alive(old)
        assert not is_alive(new)


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False
