"""The client that asks as fast as it is answered counts each answer, and each failure, once."""

from __future__ import annotations

import time

from loadtests.scenarios.clients import client
from tests.loadtests.servers import OK, Seen, serving

MS = 1000.0  # in microseconds, as reports are


def report(port: int, *, connections: int = 2, seconds: float = 0.3, warm_up: float = 0.1) -> dict[str, float]:
    options = ("--connections", connections, "--seconds", seconds, "--warm-up", warm_up)
    with client("closed_loop", port, *options) as ready:
        return ready.go()


def test_every_answer_is_counted() -> None:
    with serving() as server:
        found = report(server.port)
    assert found["answered"] == server.requests > 4
    assert 0 < found["rate"] * 0.3 < found["answered"]  # the warm-up is only in the latter
    assert (found["errors"], found["reconnects"], len(server.connections)) == (0, 0, 2)


def test_the_latency_is_the_delay_of_the_server() -> None:
    def slowly(_seen: Seen, _number: int) -> bytes:
        time.sleep(0.03)
        return OK

    with serving(slowly) as server:
        found = report(server.port, connections=1)
    assert 30 * MS <= found["p50"] < 300 * MS


def test_a_request_that_is_cut_off_is_one_error_and_the_connection_is_made_anew() -> None:
    with serving(lambda _seen, number: None if number == 5 else OK) as server:
        found = report(server.port)
    assert (found["errors"], found["reconnects"], len(server.connections)) == (1, 1, 3)
    assert found["answered"] == server.requests - 1


def test_a_server_that_goes_away_ends_in_a_report_not_in_a_flood_of_errors() -> None:
    with serving() as server:

        def respond(_seen: Seen, number: int) -> bytes | None:
            if number == 5:
                server.stop_listening()
            return None if number >= 5 else OK

        server.respond = respond
        found = report(server.port)
    # Two requests, and two attempts to connect again.
    assert (found["errors"], found["answered"]) == (4, 5)
