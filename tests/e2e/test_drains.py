"""How an old version ends: by itself, at the deadline, told to say goodbye, side by side with others."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.e2e import configs
from tests.e2e.harness import Events, Held, eventually, fetch, held, is_alive
from tests.e2e.shared import shared_by

if TYPE_CHECKING:
    from tests.e2e.shared import Shared

POLITE = {name: configs.backend("--polite") for name in ("v1", "v2")}
STUBBORN = {"v1": configs.backend("--stubborn"), "v2": configs.backend()}
shared = shared_by(
    web={"drain": 'deadline = "60s"'},
    other={},
    idle={},
    side={},
    own={},
    polite={"drain": 'signal_at = "start"\ndeadline = "60s"', **POLITE},
    stubborn={"drain": 'stop_timeout = "500ms"', **STUBBORN},
    told={},
)


def test_a_connection_that_never_ends_is_closed_at_the_deadline_and_no_other_service_notices(shared: Shared) -> None:
    proxy, web, other = shared.proxy, shared.ports["web"], shared.ports["other"]
    with Events(proxy) as events, Held(web) as endless, Held(other) as bystanding:
        assert endless.ask().startswith("v1 1 ")
        assert bystanding.ask().startswith("v1 1 ")
        (old,) = proxy.pids()
        bystander = proxy.begin("swap", "other", version="v2", deadline="60s")["id"]
        events.wait(operation=bystander, phase="switch", state="end")

        number = proxy.begin("swap", version="v2", deadline="1s")["id"]
        events.wait(operation=number, phase="drain", state="begin")
        began = time.monotonic()
        with pytest.raises(OSError, match="reset"):  # it had a byte in the last second: cut short, and told so
            _ask_for_ever(endless)
        assert 0.9 <= time.monotonic() - began <= 2
        result = events.wait(operation=number, type="result")["result"]
        assert time.monotonic() - began <= 2
        assert (result["drained"], result["forced"]) == (0, 1)
        assert 1 <= result["phases"]["drain"] <= 2
        assert not is_alive(old)
        metrics = proxy.metrics()
        assert metrics.get("proxy_drain_forced_connections_total", service="web") == 1
        assert metrics.get("proxy_drain_completed_total", service="web", outcome="forced") == 1

        assert bystanding.ask().startswith("v1 1 ")
        drain = proxy.generation(1, "other")["drain"]  # type: ignore[index]
        assert drain["initial"] == drain["remaining"] == 1
        assert 50 < drain["deadline"] - time.time() <= 60
        assert metrics.get("proxy_drain_forced_connections_total", service="other") == 0


def test_a_client_that_is_idle_at_the_deadline_sees_an_ordinary_end(shared: Shared) -> None:
    proxy, port = shared("idle")
    with Held(port) as idle:
        assert idle.ask().startswith("v1 ")
        assert proxy.operate("swap", version="v2", deadline="1.5s")["forced"] == 1
        assert idle.rest() == b""


def test_several_generations_drain_side_by_side_and_each_ends_with_its_own_connections(shared: Shared) -> None:
    proxy, port = shared("side")
    with Events(proxy) as events, ExitStack() as stack:
        clients: list[Held] = []
        numbers, pids = [], []
        for version in ("v2", "v3", "v1"):
            clients.append(stack.enter_context(Held(port)))
            clients[-1].ask()
            pids += proxy.pids()
            numbers.append(proxy.begin("swap", version=version)["id"])
            events.wait(operation=numbers[-1], phase="switch", state="end")
        states = {each["id"]: each["state"] for each in proxy.service()["generations"]}
        assert states == {1: "draining", 2: "draining", 3: "draining", 4: "active"}
        assert [client.ask().split()[1] for client in clients] == ["1", "2", "3"]

        for index in (1, 0, 2):  # the middle one first
            clients[index].close()
            result = events.wait(operation=numbers[index], type="result")["result"]
            assert (result["drained"], result["forced"]) == (1, 0)
            assert not is_alive(pids[index])
        eventually(lambda: proxy.service()["state"] == "serving", what="nothing drains any more")


def test_a_swap_waits_for_the_end_of_its_own_drain_only(shared: Shared) -> None:
    proxy, port = shared("own")
    with Events(proxy) as events, Held(port) as client:
        client.ask()
        first = proxy.begin("swap", version="v2")["id"]
        events.wait(operation=first, phase="switch", state="end")
        assert proxy.operate("swap", version="v3")["drained"] == 0
        assert proxy.generation(1)["drain"]["remaining"] == 1  # type: ignore[index]


def test_a_backend_that_says_goodbye_itself_is_told_when_its_drain_starts(shared: Shared) -> None:
    proxy, port = shared("polite")
    with Events(proxy) as events:
        (old,) = proxy.pids()
        with Held(port) as client:
            client.ask()
            number = proxy.begin("swap", version="v2")["id"]
            assert client.rest() == b"goodbye\n"
        result = events.wait(operation=number, type="result")["result"]
        assert (result["drained"], result["forced"]) == (1, 0)
        assert result["phases"]["drain"] < 10
        assert not is_alive(old)


def test_a_backend_that_ignores_the_stop_signal_is_killed(shared: Shared) -> None:
    proxy, port = shared("stubborn")
    (old,) = proxy.pids()
    result = proxy.operate("swap", version="v2")
    assert 0.5 <= result["phases"]["stop"] < 5
    assert not is_alive(old)
    assert fetch(port).startswith("v2 ")


def test_drain_progress_is_told_as_it_happens(shared: Shared) -> None:
    proxy, port = shared("told")
    with Events(proxy) as events, held(port, 3) as clients:
        number = proxy.begin("swap", version="v2", deadline="60s")["id"]
        first = events.wait(operation=number, type="drain")
        assert (first["initial"], first["remaining"], first["generation"]) == (3, 3, 1)
        assert 50 < first["deadline"] - time.time() <= 60
        for left in (2, 1, 0):
            clients[left].close()
            events.wait(operation=number, type="drain", remaining=left)
        assert events.wait(operation=number, type="result")["result"]["drained"] == 3


def _ask_for_ever(client: Held) -> None:
    while True:
        client.ask()
