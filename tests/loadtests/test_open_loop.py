"""Latencies at a fixed rate are those that users would have had, whatever the relay does to the client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from loadtests.scenarios.clients import client
from loadtests.scenarios.fixed_rate import fixed_rate
from loadtests.scenarios.latency import percentiles
from tests.loadtests.servers import OK, Seen, directly, serving

if TYPE_CHECKING:
    from loadtests.model import Backends, Running

MS = 1000.0  # in microseconds, as reports are


def report(
    port: int, rate: float, *, connections: int = 4, seconds: float = 0.5, warm_up: float = 0.1
) -> dict[str, float]:
    options = ("--connections", connections, "--seconds", seconds, "--warm-up", warm_up)
    with client("open_loop", port, rate, *options) as ready:
        return ready.go()


def test_percentiles_are_exact() -> None:
    assert percentiles([number * 1000 for number in range(1000, 0, -1)]) == {"p50": 500, "p99": 990, "p999": 999}
    assert percentiles([7000]) == {"p50": 7, "p99": 7, "p999": 7}
    assert percentiles([]) == {}


def test_every_request_is_made_and_every_answer_counted() -> None:
    with serving() as server:
        found = report(server.port, 200)
    assert found["answered"] == server.requests == 120  # the warm-up is in it
    assert [seen.requests for seen in server.connections] == [30, 30, 30, 30]  # in turn
    assert (found["errors"], found["unanswered"], found["reconnects"]) == (0, 0, 0)
    assert 0 < found["rate"] * 0.5 <= 120
    assert 0 < found["client"] < 1


def test_the_latency_is_the_delay_of_the_server() -> None:
    def slowly(_seen: Seen, _number: int) -> bytes:
        time.sleep(0.03)
        return OK

    with serving(slowly) as server:
        found = report(server.port, 10, seconds=1)
    assert 30 * MS <= found["p50"] < 1000 * MS


def test_a_stall_is_felt_by_all_that_would_have_asked_meanwhile() -> None:
    stall = 60  # the request that takes long; a client that waits for its answers would have it in 2 of 300 samples

    def respond(_seen: Seen, number: int) -> bytes:
        time.sleep(0.2 if number == stall else 0)
        return OK

    with serving(respond) as server:
        found = report(server.port, 400, connections=2, seconds=0.75, warm_up=0)
    assert found["answered"] == 300
    # 80 of 300 were due in these 200 ms, evenly spread over them.
    assert found["p99"] > 150 * MS
    assert found["errors"] == 0


def test_what_happens_in_the_warm_up_does_not_count() -> None:
    def respond(_seen: Seen, number: int) -> bytes:
        time.sleep(1.5 if number == 0 else 0)
        return OK

    with serving(respond) as server:
        found = report(server.port, 20, seconds=0.3, warm_up=1.6)
    assert found["answered"] == 38
    assert found["p999"] < 1000 * MS


def test_a_request_that_is_cut_off_is_one_error_and_the_rest_goes_on() -> None:
    with serving(lambda _seen, number: None if number in {20, 50} else OK) as server:
        found = report(server.port, 200)
    assert (found["errors"], found["answered"], found["reconnects"]) == (2, 118, 2)
    assert len(server.connections) == 6


def test_a_connection_that_is_closed_between_requests_is_no_error() -> None:
    last: list[Seen] = []

    with serving() as server:

        def respond(seen: Seen, number: int) -> bytes:
            last.append(seen)
            if number == 8:  # the one before has nothing to do for another 150 ms
                server.close(last[-2])
            return OK

        server.respond = respond
        found = report(server.port, 20, seconds=0.7)
    assert (found["errors"], found["answered"], found["reconnects"]) == (0, 16, 1)


def test_an_answer_of_another_status_is_an_error() -> None:
    refused = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    with serving(lambda _seen, number: refused if number == 10 else OK) as server:
        found = report(server.port, 200)
    assert (found["errors"], found["answered"]) == (1, 119)


def test_a_request_that_is_never_answered_is_an_error_and_is_in_the_percentiles() -> None:
    with serving(lambda _seen, number: b"" if number == 30 else OK) as server:
        found = report(server.port, 100, connections=1)
    # Those that had to wait behind it were never asked, which is no error of theirs.
    assert found["errors"] == 1
    assert (found["answered"], found["unanswered"]) == (30, 30)
    assert found["p99"] > 1000 * MS


def test_an_answer_in_pieces_is_one_answer() -> None:
    with serving() as server:

        def respond(seen: Seen, _number: int) -> bytes:
            for start in range(len(OK) - 1):
                seen.connection.sendall(OK[start : start + 1])
            return OK[-1:]

        server.respond = respond
        found = report(server.port, 50)
    assert (found["errors"], found["answered"]) == (0, 30)


def test_a_server_that_is_not_there_is_said() -> None:
    with serving() as server:
        port = server.port
    with pytest.raises(RuntimeError, match="ConnectionRefusedError"):
        report(port, 100)


def test_the_scenario_asks_for_its_share_of_the_capacity_of_this_run() -> None:
    scenario = fixed_rate(0.3, lambda: 1000.0)
    assert scenario.name == "fixed-30"
    with serving() as server:
        sample = scenario.run(*directly(server.port), 0.3)
    assert sample["asked"] == 300
    assert {column.name for column in scenario.columns} - set(sample) == {"cpu", "user", "system"}
    assert server.requests == 300 * 0.8  # with the warm-up


def test_without_a_capacity_nothing_is_measured() -> None:
    with pytest.raises(LookupError):
        fixed_rate(0.7, lambda: 0.0).run(*directly(1), 0.3)


def test_a_fixed_rate_goes_through_this_proxy(relayed: tuple[Running, Backends]) -> None:
    scenario = fixed_rate(0.7, lambda: 1000.0)
    sample = scenario.run(*relayed, 0.5)
    assert {column.name for column in scenario.columns} <= set(sample)
    assert (sample["errors"], sample["answered"]) == (0, 700)
    assert 0 < sample["p50"] <= sample["p99"] <= sample["p999"]
