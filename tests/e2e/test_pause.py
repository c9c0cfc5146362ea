"""Pause: connections are accepted and held, not refused, and served when the pause is over."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.e2e.harness import Events, Held
from tests.e2e.shared import shared_by

if TYPE_CHECKING:
    from tests.e2e.shared import Shared

shared = shared_by(workers=2, web={"keys": 'connect_timeout = "500ms"'}, swapped={}, left={})


def test_a_connection_begun_in_a_pause_is_held_and_then_served_and_open_ones_go_on(shared: Shared) -> None:
    proxy, port = shared("web")
    with Held(port) as before, ExitStack() as stack:
        before.ask()
        proxy.ok("pause", "--service", "web")
        assert proxy.service()["state"] == "paused"
        clients = [stack.enter_context(Held(port)) for _ in range(10)]
        for client in clients:
            client.send()
        # Longer than connect_timeout: a pause is no failure to connect.
        assert not clients[0].has_answer(within=0.8)
        assert not any(client.has_answer(within=0) for client in clients)
        assert before.ask().startswith("v1 1 ")
        proxy.ok("resume", "--service", "web")
        assert {client.answer().split()[0] for client in clients} == {"v1"}
        assert proxy.service()["state"] == "serving"


def test_connections_held_over_a_swap_get_the_new_version(shared: Shared) -> None:
    """For a migration: pause, swap, migrate, resume."""
    proxy, port = shared("swapped")
    with Events(proxy) as events:
        proxy.ok("pause", "--service", "swapped")
        with Held(port) as client:
            client.send()
            number = proxy.begin("swap", version="v2")["id"]
            assert events.wait(operation=number, type="result")["result"]["result"] == "swapped"
            assert not client.has_answer()
            proxy.ok("resume", "--service", "swapped")
            assert client.answer().startswith("v2 2 ")


def test_a_client_that_leaves_during_a_pause_is_forgotten(shared: Shared) -> None:
    proxy, port = shared("left")
    proxy.ok("pause", "--service", "left")
    with Held(port) as client:
        client.send()
    proxy.ok("resume", "--service", "left")
    with Held(port) as other:
        assert other.ask().startswith("v1 1 ")
