"""What a swap costs: nothing that is lost is overlooked, and nothing that is not lost is called a failure."""

from __future__ import annotations

import os
import threading
from array import array
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from loadtests.scenarios import swap_client
from loadtests.scenarios.swap_client import Crowd
from loadtests.scenarios.swap_cost import Window, figures, swap_cost
from loadtests.scenarios.swap_record import Answers, Record
from tests.loadtests.scripted import GOOD, Asked, web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loadtests.model import Backends, Running, Sample

_CLIENTS = 4


def cost_of(script: Callable[[Asked], tuple[bytes, bool]]) -> Sample:
    """Of a swap after which a server answers so."""
    with web(script) as server:
        return swap_cost(_CLIENTS).run(*server.running(), 0.2)


def losses(sample: Sample) -> tuple[float, float, float]:
    return sample["errors"], sample["reconnects"], sample["retries"]


def from_the_swap_on(answer: bytes, *, closes: bool) -> Callable[[Asked], tuple[bytes, bool]]:
    """What happens to the first request that a kept connection makes after the swap; all others are answered well."""
    return lambda asked: (answer, closes) if asked.is_old and asked.turn else (GOOD, False)


def test_a_swap_that_nobody_notices_has_every_column_and_no_losses() -> None:
    sample = cost_of(lambda _: (GOOD, False))
    assert set(sample) == {column.name for column in swap_cost().columns}
    assert losses(sample) == (0, 0, 0)
    assert sample["steady"] > 0
    assert sample["rate_ratio"] == pytest.approx(sample["rate"] / sample["steady"])
    assert sample["p99_ratio"] == pytest.approx(sample["p99"] / sample["steady_p99"])


def test_kept_connections_that_are_closed_with_notice_lose_nothing() -> None:
    goodbye = GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert losses(cost_of(from_the_swap_on(goodbye, closes=True))) == (0, _CLIENTS, 0)


def test_requests_that_met_a_close_on_their_way_are_sent_once_more() -> None:
    assert losses(cost_of(from_the_swap_on(b"", closes=True))) == (0, 0, _CLIENTS)


def test_kept_connections_that_are_closed_after_an_answer_without_notice_are_no_failures() -> None:
    errors, reconnects, retries = losses(cost_of(from_the_swap_on(GOOD, closes=True)))
    assert errors == 0
    assert reconnects + retries == _CLIENTS


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (GOOD[:-1], "an answer was cut off"),
        (GOOD[:20], "an answer was cut off"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 503 Service Unavailable"),
    ],
    ids=["half a body", "half a head", "503"],
)
def test_every_answer_that_is_no_good_is_a_failure(answer: bytes, reason: str, capsys: pytest.CaptureFixture) -> None:
    assert losses(cost_of(from_the_swap_on(answer, closes=True))) == (_CLIENTS, 0, 0)
    assert reason in capsys.readouterr().err


def test_a_new_connection_that_gets_no_answer_is_a_failure_and_not_sent_again() -> None:
    dropped: list[Asked] = []

    def drop_one(asked: Asked) -> tuple[bytes, bool]:
        if b"Connection: close" in asked.head and not dropped:
            dropped.append(asked)
            return b"", True
        return GOOD, False

    assert losses(cost_of(drop_one)) == (1, 0, 0)


def test_a_request_that_is_dropped_twice_is_a_failure() -> None:
    ends: list[Asked] = []
    one_by_one = threading.Lock()  # each connection has a thread

    def drop_two(asked: Asked) -> tuple[bytes, bool]:
        """A kept connection with a request on it, and then the one that it is sent again on."""
        is_kept = b"Connection: close" not in asked.head
        with one_by_one:
            if len(ends) < 2 and is_kept and (asked.is_old if not ends else not asked.turn):
                ends.append(asked)
                return b"", True
        return GOOD, False

    assert losses(cost_of(drop_two)) == (1, 0, 1)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients in this process, whose stdin is at its end, and which then wait for little."""
    monkeypatch.setattr(swap_client, "_LAST", 0.2)
    reader, writer = os.pipe()
    os.close(writer)
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield


@pytest.mark.usefixtures("hasty")
def test_a_request_that_is_never_answered_is_a_failure() -> None:
    with web(lambda asked: (b"" if asked.turn else GOOD, False)) as server:
        crowd = Crowd(server.port, 3)
        crowd.run()
    assert crowd.record.failures["no answer"] in (3, 4)  # the new connection may be on its way, too


@pytest.mark.usefixtures("hasty")
def test_who_is_refused_is_told_so() -> None:
    with web() as server:
        port = server.port
    with pytest.raises(SystemExit, match="ECONNREFUSED"):
        Crowd(port, 1).run()


def test_a_relay_that_does_not_answer_is_an_error_and_not_a_result() -> None:
    unavailable = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(RuntimeError, match="503 Service Unavailable"):
        cost_of(lambda _: (unavailable, False))


def test_a_record_is_the_same_after_its_journey() -> None:
    record = Record(failures=Counter({"connect: ECONNREFUSED": 2}), reconnects=3, retries=4)
    record.kept.add(1.5, 0.25)
    record.new.add(1.75, 0.5)
    assert Record.from_json(record.as_json()) == record


def test_figures_are_of_the_windows_and_of_nothing_else() -> None:
    steady, around = Window(10.0, 12.0), Window(12.0, 13.0)
    # Before: 4 in two seconds, of 100 ms each. Around it: 1 that began before, and took long. One is after all.
    kept = Answers(array("d", [10.0, 10.5, 11.0, 11.5, 11.9, 13.5]), array("d", [0.1, 0.1, 0.1, 0.1, 0.5, 9.0]))
    new = Answers(array("d", [9.0, 12.5]), array("d", [0.2, 0.3]))
    sample = figures(Record(kept, new, Counter(x=1), 2, 3), steady, around)
    assert sample["steady"] == 2.0
    assert sample["rate"] == 2.0
    assert sample["rate_ratio"] == 1.0
    assert sample["p99"] == pytest.approx(0.5e6)
    assert sample["steady_p99"] == pytest.approx(0.5e6)  # the slow one was on its way in both
    assert sample["new_p99"] == pytest.approx(0.3e6)
    assert sample["worst"] == pytest.approx(500)
    assert losses(sample) == (1, 2, 3)


def test_what_nobody_answered_has_no_latency() -> None:
    sample = figures(Record(failures=Counter(x=5)), Window(0, 1), Window(1, 2))
    assert sample == {"steady": 0, "rate": 0, "errors": 5, "reconnects": 0, "retries": 0}


def test_a_swap_of_this_proxy_fails_no_request(relayed: tuple[Running, Backends]) -> None:
    sample = swap_cost(8).run(*relayed, 0.3)
    assert sample["errors"] == 0
    assert sample["rate"] > 0
