"""Idle connections are really there, and what they cost is what the relay's memory grew by."""

from __future__ import annotations

import mmap
import os
import time
from typing import TYPE_CHECKING

import pytest

from loadtests.scenarios.clients import client
from loadtests.scenarios.idle import fitting, idle, load
from tests.loadtests.servers import OK, Seen, directly, serving

if TYPE_CHECKING:
    from loadtests.model import Backends, Running

KIB = 1024


def test_as_many_as_asked_for_where_one_process_can_relay_them() -> None:
    assert fitting(10_000, 1 << 20) == 10_000
    assert fitting(10_000, -1) == 10_000  # RLIM_INFINITY


def test_fewer_where_the_descriptors_do_not_suffice_for_both_sides() -> None:
    assert fitting(10_000, 20_000) == 9_500
    assert fitting(10_000, 100) == 1


def test_each_is_open_has_had_one_response_and_is_closed_in_the_end() -> None:
    with serving() as server:
        with client("idle_holder", server.port, 200) as held:
            assert server.open == len(server.connections) == 200
            assert {seen.requests for seen in server.connections} == {1}
            # Ports would run out on one address with 10,000 for each relay.
            assert len({seen.address for seen in server.connections}) == 8
            assert held.go()["closed"] == 0
        assert server.open == 0


def test_those_that_did_not_stay_open_are_counted() -> None:
    with serving() as server, client("idle_holder", server.port, 20) as held:
        for seen in server.connections[3:6]:
            server.close(seen)
        assert held.go()["closed"] == 3


def test_a_connection_that_is_not_answered_is_said() -> None:
    with (
        serving(lambda _seen, number: None if number == 7 else OK) as server,
        pytest.raises(RuntimeError, match="closed after"),
        client("idle_holder", server.port, 20),
    ):
        pass


def test_memory_is_what_the_workers_grew_by_for_each() -> None:
    def respond(seen: Seen, _number: int) -> bytes:
        if seen.address != "127.0.0.1":
            seen.memory = mmap.mmap(-1, KIB * KIB)  # its own, and not what was freed before
            seen.memory.write(bytes(KIB * KIB))
        return OK

    with serving(respond) as server:
        sample = load(100)(*directly(server.port, os.getpid()), 0.2)
        for seen in server.connections:
            if seen.memory is not None:
                seen.memory.close()
    assert 0.85 * KIB < sample["memory"] < 1.15 * KIB
    assert sample["connections"] == 100
    assert sample["errors"] == 0


def test_a_busy_one_that_is_slower_among_the_idle_ones_shows_it() -> None:
    with serving() as server:

        def respond(seen: Seen, _number: int) -> bytes:
            if seen.address == "127.0.0.1":
                time.sleep(0.05 if server.open > 10 else 0.005)
            return OK

        server.respond = respond
        sample = load(50)(*directly(server.port), 0.6)
    assert 0 < sample["busy"] < 0.6
    assert not {"memory", "busy_cpu"} & set(sample)  # there is no relay


def test_idle_connections_that_are_closed_are_errors_of_the_sample() -> None:
    with serving() as server:

        def respond(seen: Seen, _number: int) -> bytes:
            if seen.address == "127.0.0.1" and server.open > 10:
                for idler in [each for each in server.connections if each.address == "127.0.0.5"]:
                    server.close(idler)
            return OK

        server.respond = respond
        sample = load(40)(*directly(server.port), 0.2)
    assert sample["errors"] == 40 / 8


def test_idle_connections_are_held_by_this_proxy(relayed: tuple[Running, Backends]) -> None:
    scenario = idle(300)
    assert scenario.is_fresh
    sample = scenario.run(*relayed, 0.5)
    assert {column.name for column in scenario.columns} <= set(sample)
    assert (sample["connections"], sample["errors"]) == (300, 0)
    assert 0 <= sample["memory"] < 20
    assert sample["busy"] > 0
