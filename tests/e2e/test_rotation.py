"""Health after the start: a sick replica gets no new connections, and gets them again when it is well."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import Events, Load, Proxy, eventually, fetch, free_port, without_answer

if TYPE_CHECKING:
    from pathlib import Path

HTTP = 'type = "http"\npath = "/health"\ninterval = "50ms"\nfall = 2'


def test_a_sick_replica_leaves_the_rotation_and_returns(tmp_path: Path) -> None:
    port = free_port()
    # {replica} in the command: each has a file of its own.
    version = configs.backend(f"--sick={tmp_path}/sick{{replica}}", replicas=3)
    config = "workers = 2\n" + configs.service(port, health=HTTP, v1=version)
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events, Load(port) as load:
        eventually(lambda: _replicas(load) == {"0", "1", "2"}, what="all three serve")
        (tmp_path / "sick1").touch()
        assert "503" in events.wait(type="health", state="unhealthy", replica=1)["reason"]
        eventually(lambda: fetch(port) and _replicas(load, last=30) == {"0", "2"}, what="two serve")
        assert [each["healthy"] for each in proxy.active()["replicas"]] == [True, False, True]
        assert proxy.metrics().get("proxy_backend_up", service="web", replica="1") == 0
        assert proxy.service()["state"] == "serving"
        (tmp_path / "sick1").unlink()
        eventually(lambda: _replicas(load, last=30) == {"0", "1", "2"}, what="all three serve again")
        assert [each["restarts"] for each in proxy.active()["replicas"]] == [0, 0, 0]
    assert not load.errors


def test_with_every_replica_sick_clients_wait_and_readyz_says_so(tmp_path: Path) -> None:
    port, sick = free_port(), tmp_path / "sick"
    config = configs.service(port, keys='connect_timeout = "20s"', health=HTTP, v1=configs.backend(f"--sick={sick}"))
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events:
        sick.touch()
        events.wait(type="health", state="unhealthy")
        status, reason = proxy.request("GET", "/readyz")
        assert status == 503
        assert b"web: no healthy active generation (v1)" in reason
        assert proxy.service()["state"] == "down"
        with without_answer(port) as client:
            sick.unlink()
            assert client.answer().startswith("v1 1 ")
        assert proxy.request("GET", "/readyz")[0] == 200


def test_a_client_that_waits_longer_than_connect_timeout_is_let_go_and_counted(tmp_path: Path) -> None:
    port, sick = free_port(), tmp_path / "sick"
    config = configs.service(port, keys='connect_timeout = "300ms"', health=HTTP, v1=configs.backend(f"--sick={sick}"))
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events:
        sick.touch()
        events.wait(type="health", state="unhealthy")
        # The workers hear of it a moment after the event; until then they serve.
        eventually(lambda: _is_let_go(port), what="a client is let go")
        assert proxy.metrics().get("proxy_connections_refused_total", service="web", reason="no_backend") == 1


def test_a_check_by_a_command_takes_replicas_out_and_in(tmp_path: Path) -> None:
    port = free_port()
    script = f"import os, sys; sys.exit(os.path.exists({str(tmp_path / 'sick')!r} + os.environ['PROXY_REPLICA']))"
    health = f'type = "command"\ninterval = "50ms"\nfall = 1\ncommand = {[sys.executable, "-I", "-S", "-c", script]}'
    config = configs.service(port, health=health, v1=configs.backend(replicas=2))
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events, Load(port, 2) as load:
        (tmp_path / "sick0").touch()
        assert "exit status 1" in events.wait(type="health", state="unhealthy", replica=0)["reason"]
        eventually(lambda: _replicas(load, last=20) == {"1"}, what="one serves")
        (tmp_path / "sick0").unlink()
        eventually(lambda: _replicas(load, last=20) == {"0", "1"}, what="both serve")
    assert not load.errors


def _replicas(load: Load, last: int = 0) -> set[str]:
    return {answer.body.split()[2] for answer in load.answers[-last:]}


def _is_let_go(port: int) -> bool:
    try:
        fetch(port)
    except (OSError, ValueError):
        return True
    return False
