"""Pause: connections are accepted and held, not refused, and served when the pause is over."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import Events, Held, Proxy, free_port

if TYPE_CHECKING:
    from pathlib import Path


def test_a_connection_begun_in_a_pause_is_held_and_then_served_and_open_ones_go_on(tmp_path: Path) -> None:
    port = free_port()
    config = "workers = 2\n" + configs.service(port, keys='connect_timeout = "500ms"')
    with Proxy(tmp_path, config) as proxy, Held(port) as before, ExitStack() as stack:
        before.ask()
        proxy.ok("pause")
        assert proxy.service()["state"] == "paused"
        clients = [stack.enter_context(Held(port)) for _ in range(10)]
        for client in clients:
            client.send()
        # Longer than connect_timeout: a pause is no failure to connect.
        assert not clients[0].has_answer(within=0.8)
        assert not any(client.has_answer(within=0) for client in clients)
        assert before.ask().startswith("v1 1 ")
        proxy.ok("resume")
        assert {client.answer().split()[0] for client in clients} == {"v1"}
        assert proxy.service()["state"] == "serving"


def test_connections_held_over_a_swap_get_the_new_version(tmp_path: Path) -> None:
    """For a migration: pause, swap, migrate, resume."""
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy, Events(proxy) as events:
        proxy.ok("pause")
        with Held(port) as client:
            client.send()
            number = proxy.begin("swap", version="v2")["id"]
            assert events.wait(operation=number, type="result")["result"]["result"] == "swapped"
            assert not client.has_answer()
            proxy.ok("resume")
            assert client.answer().startswith("v2 2 ")


def test_a_client_that_leaves_during_a_pause_is_forgotten(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy:
        proxy.ok("pause")
        with Held(port) as client:
            client.send()
        proxy.ok("resume")
        with Held(port) as other:
            assert other.ask().startswith("v1 1 ")
