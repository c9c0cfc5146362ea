"""Swaps of a service that is steered: what a client of it may not notice, in whatever state its connection is.

`STEER_SWAPS=200 pytest tests/e2e/steer/test_steered_swaps.py` swaps 200 times under load.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from tests.e2e.crash_harness import Calm
from tests.e2e.harness import Events, Held, Load, fetch, is_alive
from tests.e2e.steer.clients import HalfOpen, Standing, stopped
from tests.e2e.steer.harness import assert_switched_in_one_step, result
from tests.e2e.steer.shared import steered_by

if TYPE_CHECKING:
    from tests.e2e.shared import Shared

SWAPS = int(os.environ.get("STEER_SWAPS", "25"))
CLIENTS, REST = 64, 0.1  # seconds between two connections of one client: hundreds of them in each swap

shared = steered_by(
    rapid={"health": 'interval = "50ms"'},
    kept={},
    parked={},
    hung={"drain": 'stop_timeout = "300ms"'},
    flooded={},
    unfinished={},
    late={},
)


def test_swap_after_swap_under_load_nobody_is_refused_or_reset_and_nobody_gets_the_old_backend(shared: Shared) -> None:
    (proxy, port), pids, fallen = shared("rapid"), [], 0
    with Events(proxy) as events, Load(port, CLIENTS, REST) as load:
        load.wait_for(CLIENTS)
        for number in range(SWAPS):
            pids += proxy.pids()
            fallen += proxy.counts()[1]
            proxy.operate("swap", version=("v2", "v1")[number % 2])
            load.wait_for(CLIENTS)
        pids += proxy.pids()
        proxy.assert_steered()
        load.stop()

        assert not load.errors
        assert not fallen, "a worker was never needed"
        assert {answer.generation for answer in load.answers} == set(range(1, SWAPS + 2))
        assert all(answer.body.split()[3] == str(pids[answer.generation - 1]) for answer in load.answers)
        assert_switched_in_one_step(load.answers, events)
        with proxy.marked() as find:  # 200 swaps later, a pid may be somebody else's
            assert not set(pids[:-1]) & set(find())


def test_a_connection_stays_with_its_backend_over_swaps_and_each_drain_waits_for_its_own(shared: Shared) -> None:
    proxy, port = shared("kept")
    with Events(proxy) as events, contextlib.ExitStack() as stack:
        clients, numbers = [], []
        for version in ("v2", "v3"):
            clients.append(stack.enter_context(Standing(port, 20)))
            numbers.append(proxy.begin_swap(events, version, deadline="60s"))
        assert fetch(port).startswith("v3 3 ")
        states = {each["id"]: (each["state"], each["connections"]) for each in proxy.service()["generations"]}
        assert states == {1: ("draining", 20), 2: ("draining", 20), 3: ("active", 0)}
        for generation in (2, 1):
            clients[generation - 1].ask()
            assert {answer.split()[1] for answer in clients[generation - 1].answers} == {str(generation)}
            clients[generation - 1].close()
            ended = result(events, numbers[generation - 1])
            assert (ended["drained"], ended["forced"]) == (20, 0)


def test_connections_in_the_queue_of_a_backend_that_hangs_are_served_when_it_goes_on(shared: Shared) -> None:
    proxy, port = shared("parked")
    with Events(proxy) as events, contextlib.ExitStack() as stack:
        (old,) = proxy.pids()
        with stopped(old) as go_on:
            parked = [stack.enter_context(Held(port)) for _ in range(10)]
            for client in parked:
                client.send()
            number = proxy.begin_swap(events, "v2", deadline="60s")
            assert events.wait(operation=number, type="drain")["remaining"] == 10
            assert fetch(port).startswith("v2 2 ")
            assert not parked[0].has_answer()
            go_on()
            assert {client.answer() for client in parked} == {f"v1 1 0 {old}"}
        for client in parked:
            client.close()
        ended = result(events, number)
        assert (ended["drained"], ended["forced"]) == (10, 0)


def test_connections_in_the_queue_of_a_backend_that_hangs_for_good_are_counted_and_reset(shared: Shared) -> None:
    proxy, port = shared("hung")
    with Events(proxy) as events, contextlib.ExitStack() as stack:
        (old,) = proxy.pids()
        with stopped(old):
            parked = [stack.enter_context(Held(port)) for _ in range(10)]
            number = proxy.begin_swap(events, "v2", deadline="700ms")
            ended = result(events, number)
        assert (ended["drained"], ended["forced"]) == (0, 10)
        assert ended["phases"]["drain"] < 1.7
        for client in parked:
            with pytest.raises(ConnectionResetError):
                client.rest()
        assert not is_alive(old)
        assert fetch(port).startswith("v2 2 ")


def test_half_open_handshakes_in_every_swap_lose_no_connection_and_hold_up_no_drain_for_ever(shared: Shared) -> None:
    proxy, port = shared("flooded")
    with (
        Events(proxy) as events,
        Standing(port, 20) as clients,
        Calm(port, 3) as load,
        contextlib.ExitStack() as stack,
    ):
        numbers = []
        for version in ("v2", "v3", "v1"):
            stack.enter_context(HalfOpen(port, 150))
            load.wait_for(10)
            numbers.append(proxy.begin_swap(events, version, deadline="60s"))
            clients.ask()
        load.wait_for(10)
        load.stop()
        assert not load.errors
        assert set(clients.answers) == {clients.answers[0]}
        clients.close()
        for number in numbers:
            ended = result(events, number)
            assert ended["forced"] == 0
            assert ended["phases"]["drain"] < 20


def test_a_drain_with_nothing_but_half_open_handshakes_ends_by_its_deadline_and_has_cut_off_nobody(
    shared: Shared,
) -> None:
    proxy, port = shared("unfinished")
    with HalfOpen(port, 50):
        ended = proxy.operate("swap", version="v2", deadline="600ms")
        assert (ended["drained"], ended["forced"]) == (0, 0)
        assert ended["phases"]["drain"] < 1.6


def test_a_handshake_that_is_complete_only_after_the_switch_is_served(shared: Shared) -> None:
    proxy, port = shared("late")
    with Events(proxy) as events, HalfOpen(port, 10) as clients:
        number = proxy.begin_swap(events, "v2", deadline="60s")
        for client in clients.finish():  # they hear the kernel's answer when it says it once more
            client.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
        assert result(events, number)["forced"] == 0
