"""Reloads, signals and ends at an awkward moment: what goes wrong for one must not be felt by the others."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import Events, Held, Proxy, eventually, fetch, free_port, held

if TYPE_CHECKING:
    from pathlib import Path

HTTP = 'type = "http"\npath = "{path}"\ninterval = "50ms"\nfall = 2'


def test_a_service_added_again_while_it_still_drains_is_refused_and_nobody_is_cut_off(tmp_path: Path) -> None:
    web, other = free_port(), free_port()
    one = configs.service(web)
    two = one + configs.service(other, name="other")
    with Proxy(tmp_path, two) as proxy, Held(web) as neighbour:
        neighbour.ask()
        with Held(other) as leaving:
            assert leaving.ask().startswith("v1 1 ")
            proxy.write(one)
            proxy.ok("reload")
            proxy.write(two)
            done = proxy.ctl("reload")
            assert done.returncode == 1
            assert "other was removed and is still draining" in done.stderr
            assert "proxyctl status" in done.stderr
            assert leaving.ask().startswith("v1 1 ")
        eventually(lambda: "other" not in proxy.status()["services"], what="the service is gone")
        proxy.ok("reload")
        assert _patient(other).startswith("v1 2 "), "generation numbers are never used again"
        proxy.operate("restart", "other")
        assert fetch(other).startswith("v1 3 ")
        assert neighbour.ask().startswith("v1 1 ")


def test_a_load_balancer_does_not_take_the_proxy_out_while_a_removed_service_drains(tmp_path: Path) -> None:
    web, other = free_port(), free_port()
    one = configs.service(web)
    with Proxy(tmp_path, one + configs.service(other, name="other")) as proxy, Held(other) as leaving:
        leaving.ask()
        proxy.write(one)
        proxy.ok("reload")
        eventually(lambda: proxy.service("other")["state"] == "draining", what="it drains")
        assert proxy.request("GET", "/readyz")[0] == 200
        assert leaving.ask().startswith("v1 1 ")


def test_a_client_held_by_a_pause_is_served_when_the_service_is_removed(tmp_path: Path) -> None:
    web, other = free_port(), free_port()
    one = configs.service(web)
    with Proxy(tmp_path, one + configs.service(other, name="other")) as proxy:
        proxy.ok("pause", "--service", "other")
        with Held(other) as client:
            client.send()
            assert not client.has_answer()
            proxy.write(one)
            proxy.ok("reload")
            assert client.answer().startswith("v1 1 ")
        eventually(lambda: "other" not in proxy.status()["services"], what="the service is gone")


def test_a_client_held_by_a_pause_is_served_when_the_proxy_is_stopped(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy:
        proxy.ok("pause")
        with Held(port) as client:
            client.send()
            assert not client.has_answer()
            assert proxy.process
            proxy.process.send_signal(signal.SIGTERM)
            assert client.answer().startswith("v1 1 ")
        assert proxy.process.wait(20) == 0


def test_a_service_managers_sigterm_after_proxyctl_stop_cuts_no_connection(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy, Events(proxy) as events, Held(port) as client:
        client.ask()
        stop = proxy.popen("stop")
        events.wait(type="drain", remaining=1)
        assert proxy.process
        proxy.process.send_signal(signal.SIGTERM)
        # By the time that these are answered, the signal has been heeded.
        assert proxy.status()["proxy"]["stopping"]
        assert proxy.generation(1)
        assert client.ask().startswith("v1 1 ")
        client.close()
        assert proxy.process.wait(20) == 0
        stop.communicate(timeout=20)
        assert stop.returncode == 0


def test_a_second_sigterm_still_means_now(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy, Events(proxy) as events, Held(port) as client:
        client.ask()
        assert proxy.process
        proxy.process.send_signal(signal.SIGTERM)
        events.wait(type="drain", remaining=1)
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(20) == 0


def test_a_public_socket_file_that_cannot_be_removed_costs_the_other_services_nothing(tmp_path: Path) -> None:
    port, public = free_port(), tmp_path / "public.sock"
    one = configs.service(port)
    with Proxy(tmp_path, one + configs.service(f"unix:{public}", name="other")) as proxy, Held(port) as client:
        client.ask()
        public.unlink()
        public.mkdir()
        proxy.write(one)
        proxy.ok("reload")
        eventually(lambda: "other" not in proxy.status()["services"], what="the service is gone")
        assert "socket file not removed" in proxy.log_text()
        assert client.ask().startswith("v1 1 ")
        proxy.operate("swap", version="v2", deadline=0)


def test_health_settings_that_were_wrong_and_are_put_right_bring_a_sick_replica_back(tmp_path: Path) -> None:
    port, sick = free_port(), tmp_path / "sick"
    version = configs.backend(f"--sick={sick}")

    def config(path: str) -> str:
        return configs.service(port, health=HTTP.format(path=path), v1=version)

    with Proxy(tmp_path, config("/health")) as proxy, Events(proxy) as events:
        (pid,) = proxy.pids()
        sick.touch()
        events.wait(type="health", state="unhealthy")
        seen = len(events.seen)
        proxy.write(config("/"))
        proxy.ok("reload")
        eventually(
            lambda: any(event.get("state") == "healthy" for _, event in events.seen[seen:]), what="it is well again"
        )
        assert fetch(port).startswith("v1 1 ")
        assert proxy.pids() == [pid], "it was not even restarted"
        assert proxy.request("GET", "/readyz")[0] == 200


def test_a_tidied_up_workers_folder_and_a_killed_worker_cost_only_what_that_worker_had(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, "workers = 2\n" + configs.service(port)) as proxy, held(port, 10) as clients:
        shutil.rmtree(proxy.state_dir / "workers")
        had = {worker["pid"]: worker["connections"] for worker in proxy.status()["proxy"]["workers"]}
        victim, lost = min(had.items(), key=lambda each: each[1])
        with Events(proxy) as events:
            os.kill(victim, signal.SIGKILL)
            events.wait(type="worker", state="died", pid=victim)
            events.wait(type="worker", state="started")
        assert sum(_is_served(client) for client in clients) == 10 - lost
        assert len(proxy.workers()) == 2
        proxy.operate("swap", version="v2", deadline=0)
        assert fetch(port).startswith("v2 ")


def test_a_replica_that_died_while_its_version_was_warm_is_back_after_a_rollback(tmp_path: Path) -> None:
    port = free_port()
    versions = {"v1": configs.backend(replicas=2), "v2": configs.backend()}
    config = configs.service(port, drain='keep_warm = "60s"', **versions)
    with Proxy(tmp_path, config) as proxy:
        first, second = proxy.pids()
        proxy.operate("swap", version="v2")
        os.kill(first, signal.SIGKILL)
        eventually(lambda: _pids(proxy, 1) == [None, second], what="it is given up")
        proxy.operate("rollback")
        eventually(lambda: all(each["healthy"] for each in proxy.active()["replicas"]), what="both replicas serve")
        back = proxy.pids()
        assert proxy.active()["id"] == 1
        assert back[1] == second
        assert back[0] not in (first, None)


def _pids(proxy: Proxy, generation: int) -> list[int | None]:
    found = proxy.generation(generation)
    return [replica["pid"] for replica in found["replicas"]] if found else []


def _is_served(client: Held) -> bool:
    try:
        return client.ask().startswith("v1 ")
    except (OSError, ValueError):
        return False


def _patient(port: int) -> str:
    """The first answer of a service that has just been added."""

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return False
        return True

    eventually(listens, what=f"somebody listens on {port}")
    return fetch(port)
