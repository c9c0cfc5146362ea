"""Reload: what is edited in the config comes into force, and no connection is dropped for it."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.e2e import configs
from tests.e2e.harness import Events, Held, Load, Proxy, eventually, fetch, free_port, is_alive

if TYPE_CHECKING:
    from pathlib import Path


def test_listeners_come_and_go_without_dropping_a_held_connection(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    public = tmp_path / "public.sock"
    both = [f"127.0.0.1:{first}", f"127.0.0.1:{second}", f"unix:{public}"]
    with (
        Proxy(tmp_path, "workers = 2\n" + configs.service(first)) as proxy,
        Held(first) as held,
        Load(first, 4) as load,
    ):
        assert held.ask().startswith("v1 1 ")
        proxy.write("workers = 2\n" + configs.service(both))
        proxy.ok("reload")
        assert proxy.service()["listen"] == both
        assert fetch(second).startswith("v1 1 ")
        with Held(path=public) as local:
            assert local.ask().startswith("v1 1 ")
        assert held.ask().startswith("v1 1 ")
        load.wait_for(10)
        load.stop()
        assert not load.errors

        with Held(second) as other:
            assert other.ask().startswith("v1 1 ")
            proxy.write("workers = 2\n" + configs.service(second))
            proxy.ok("reload")
            assert proxy.service()["listen"] == both[1:2]
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", first))
            assert not public.exists()
            assert held.ask().startswith("v1 1 "), "accepted on a listener that is gone, and served on"
            assert other.ask().startswith("v1 1 ")


def test_a_changed_recipe_waits_for_the_next_start(tmp_path: Path) -> None:
    port = free_port()
    said = tmp_path / "state/output/web"
    with Proxy(tmp_path, configs.service(port)) as proxy:
        (old,) = proxy.pids()
        proxy.write(configs.service(port, v1=configs.backend("--say=new recipe"), v2=configs.backend()))
        assert "proxyctl restart --service web" in proxy.ctl("reload").stderr
        assert proxy.pids() == [old]
        proxy.operate("restart")
        assert (said / "v1/2.0.log").read_text() == "new recipe\n"


def test_a_new_version_can_be_swapped_to_after_a_reload_and_a_new_deadline_holds(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port, v1=configs.backend())) as proxy, Held(port) as held:
        held.ask()
        assert proxy.ask("POST", "/v1/services/web/swap", {"version": "v9"})[0] == 404
        proxy.write(configs.service(port, drain='deadline = "300ms"', v1=configs.backend(), v9=configs.backend()))
        proxy.ok("reload")
        result = proxy.operate("swap", version="v9")
        assert result["forced"] == 1
        assert result["phases"]["drain"] < 3


def test_an_invalid_config_changes_nothing(tmp_path: Path) -> None:
    port, other, taken = free_port(), free_port(), socket.create_server(("127.0.0.1", 0))
    with taken, Proxy(tmp_path, configs.service(port)) as proxy:
        before = proxy.service()
        proxy.write(configs.service([f"127.0.0.1:{port}", f"127.0.0.1:{other}"]).replace("interval", "intervall"))
        done = proxy.ctl("reload")
        assert done.returncode == 2
        assert "intervall" in done.stderr
        assert "interval" in done.stderr
        assert proxy.service() == before
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", other))

        port_taken = taken.getsockname()[1]
        proxy.write(configs.service([f"127.0.0.1:{port}", f"127.0.0.1:{other}", f"127.0.0.1:{port_taken}"]))
        done = proxy.ctl("reload")
        assert done.returncode == 1
        assert f"127.0.0.1:{port_taken} is taken by pid {os.getpid()}" in done.stderr
        assert proxy.service() == before
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", other))
        assert fetch(port).startswith("v1 1 ")


def test_an_edited_active_swaps(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy, Events(proxy) as events, Load(port, 4) as load:
        proxy.write(configs.service(port, active="v3"))
        os.kill(proxy.pid, signal.SIGHUP)
        result = events.wait(type="result")["result"]
        assert (result["kind"], result["from"], result["to"], result["result"]) == ("swap", "v1", "v3", "swapped")
        load.wait_for(10)
        assert fetch(port).startswith("v3 2 ")
    assert not load.errors


def test_health_settings_take_effect_on_what_runs(tmp_path: Path) -> None:
    port, sick = free_port(), tmp_path / "sick"
    version = configs.backend(f"--sick={sick}", replicas=2)
    with Proxy(tmp_path, configs.service(port, v1=version)) as proxy, Events(proxy) as events:
        sick.touch()
        proxy.write(configs.service(port, health='type = "http"\npath = "/health"\ninterval = "50ms"', v1=version))
        proxy.ok("reload")
        assert "503" in events.wait(type="health", state="unhealthy")["reason"]


def test_services_come_and_go(tmp_path: Path) -> None:
    web, other = free_port(), free_port()
    one = configs.service(web)
    with Proxy(tmp_path, one) as proxy, Held(web) as held:
        held.ask()
        proxy.write(one + configs.service(other, name="other"))
        proxy.ok("reload")
        assert fetch(other).startswith("v1 1 ")
        with Held(other) as leaving:
            leaving.ask()
            (old,) = proxy.pids("other")
            proxy.write(one)
            proxy.ok("reload")
            assert leaving.ask().startswith("v1 1 "), "it drains"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", other))
        eventually(lambda: not is_alive(old), what="the removed service's backend is gone")
        eventually(lambda: "other" not in proxy.status()["services"], what="and the service")
        proxy.write(one + configs.service(other, name="other", active="v2"))
        proxy.ok("reload")
        eventually(lambda: _version(other) == "v2", what="a service of the same name is a new one")
        assert held.ask().startswith("v1 1 ")
        assert proxy.metrics().get("proxy_active_generation", service="other") is not None


def test_what_cannot_change_while_it_runs_is_said(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, "workers = 1\n" + configs.service(port)) as proxy:
        proxy.write("workers = 2\n" + configs.service(port))
        assert "workers" in proxy.ctl("reload").stderr
        assert len(proxy.workers()) == 1


def _version(port: int) -> str:
    try:
        return fetch(port).split()[0]
    except OSError:
        return ""
