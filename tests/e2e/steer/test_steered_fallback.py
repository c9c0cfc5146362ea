"""Where connections cannot be steered they are relayed, which is said, and everything else is as it is elsewhere."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.e2e import configs
from tests.e2e.harness import Events, Held, Load, eventually, fetch, free_port
from tests.e2e.steer.clients import Standing
from tests.e2e.steer.elsewhere import Forwarder, Namespace, bystander
from tests.e2e.steer.harness import Steered, result, service
from tests.e2e.steer.kernel import marked
from tests.e2e.steer.servers import many

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def assert_relayed(proxy: Steered, port: int, *reasons: str, name: str = "") -> None:
    """It is said once in the log, and on status and in the metrics, that and why connections are relayed."""
    name = name or proxy.default
    service = proxy.service(name)
    assert (service["datapath"], service["datapath_configured"]) == ("relay", "steer")
    assert any(reason in service["datapath_reason"] for reason in reasons), service["datapath_reason"]
    assert proxy.metrics().get("proxy_datapath", service=name, configured="steer", effective="relay") == 1
    lines = [line for line in proxy.log.read_text().splitlines() if service["datapath_reason"] in line]
    assert len(lines) == 1, lines
    assert name in lines[0]
    before = marked(port)
    with Held(port) as client:
        client.ask()
        assert marked(port) == before
        assert proxy.counts(name)[0] == 0
        eventually(lambda: proxy.active(name)["connections"] == 1, what="it is counted by a worker")


def assert_all_else_works(proxy: Steered, port: int) -> None:
    """A swap, a drain, a pause, a rollback."""
    with Events(proxy) as events, Load(port, 4) as load, Standing(port, 5) as clients:
        load.wait_for(10)
        number = proxy.begin_swap(events, "v2", deadline="60s")
        clients.ask()
        assert {answer.split()[0] for answer in clients.answers} == {"v1"}
        load.wait_for(10)
        clients.close()
        ended = result(events, number)
        assert ended["drained"] >= 5
        assert ended["forced"] == 0
        proxy.begin("pause")
        proxy.begin("resume")
        proxy.operate("rollback")
        assert fetch(port).startswith("v1 ")
        load.stop()
        assert not load.errors


@pytest.mark.parametrize("without", ["-net_admin", "-bpf,-sys_admin,-net_admin,-sys_ptrace"], ids=["net", "all"])
def test_one_capability_that_is_missing_is_enough(tmp_path: Path, without: str) -> None:
    with _without(tmp_path, without) as (proxy, port):
        assert_relayed(proxy, port, "CAP_NET_ADMIN")


def test_without_cap_bpf_nothing_else_is_missing(tmp_path: Path) -> None:
    with _without(tmp_path, "-bpf,-sys_admin") as (proxy, port):
        assert_relayed(proxy, port, "CAP_BPF")
        assert_all_else_works(proxy, port)
        proxy.stop()


@contextmanager
def _without(folder: Path, capabilities: str) -> Iterator[tuple[Steered, int]]:
    port = free_port()
    proxy = Steered(folder, service(port))
    proxy.without = capabilities
    with proxy:
        yield proxy, port


def test_doctor_says_what_is_missing_and_how_to_grant_it(tmp_path: Path) -> None:
    port = free_port()
    proxy = Steered(tmp_path, service(port))
    assert "steering" in proxy.doctor()
    proxy.without = "-bpf,-sys_admin,-net_admin"
    words = proxy.doctor()
    assert "CAP_BPF" in words
    assert "setcap" in words
    assert "AmbientCapabilities=" in words


def test_a_backend_in_another_network_namespace(tmp_path: Path) -> None:
    """As a container is, whose runtime forwards a port of ours to it."""
    port = free_port()
    with Namespace() as namespace, Forwarder(tmp_path / "ports", namespace.there) as forwarder:
        versions = {
            name: forwarder.command(namespace.command(many("--host", namespace.there))) for name in ("v1", "v2")
        }
        health = 'interval = "100ms"\nowner = "any"\ntype = "http"'
        with Steered(tmp_path, service(port, health=health, **versions)) as proxy:
            assert_relayed(proxy, port, "another network namespace")
            assert_all_else_works(proxy, port)


def test_a_backend_that_runs_elsewhere_and_one_on_a_unix_socket_and_back_again(tmp_path: Path) -> None:
    port, elsewhere = free_port(), free_port()
    unix = configs.backend(at="--socket={socket}")
    config = service(port, v1=many(), v2=f'address = "127.0.0.1:{elsewhere}"\n', v3=unix)
    with Steered(tmp_path, config) as proxy, bystander(elsewhere), Standing(port, 3) as first:
        proxy.assert_steered()
        proxy.begin("swap", version="v2")
        eventually(lambda: proxy.service()["active"] == "v2", what="switched")
        assert_relayed(proxy, port, f"127.0.0.1:{elsewhere}")
        first.ask()
        with Held(port) as second:
            second.ask()
            proxy.begin("swap", version="v3")
            eventually(lambda: proxy.service()["active"] == "v3", what="switched")
            assert_relayed(proxy, port, "Unix socket")
            assert fetch(port).startswith("v3 ")
            first.close()
            second.close()
        with Load(port, 4) as load:
            load.wait_for(10)
            proxy.operate("swap", version="v1")
            load.wait_for(10)
            load.stop()
            assert not load.errors
        proxy.assert_steered()
        steered = proxy.counts()[0]
        fetch(port)
        assert proxy.counts()[0] == steered + 1


def test_a_public_unix_socket_beside_a_public_port(tmp_path: Path) -> None:
    port, public = free_port(), tmp_path / "public.sock"
    with Steered(tmp_path, service([f"127.0.0.1:{port}", f"unix:{public}"])) as proxy, ExitStack() as stack:
        proxy.assert_steered()
        for client in (Held(port), Held(path=public)):
            assert stack.enter_context(client).ask().startswith("v1 1 ")
        assert proxy.counts()[0] == 1
        assert proxy.active()["connections"] == 2
        ended = proxy.operate("swap", version="v2", deadline="300ms")
        assert (ended["drained"], ended["forced"]) == (0, 2)
        assert not re.search("Traceback", proxy.log.read_text())
