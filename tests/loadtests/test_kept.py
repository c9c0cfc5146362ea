"""The loads that wrk makes: what it prints is understood, and what fails is not counted as done."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from loadtests.machine import Cpu
from loadtests.scenarios.cost import cpu_columns
from loadtests.scenarios.kept import kept, varied
from loadtests.scenarios.new import new
from loadtests.scenarios.wrk import read_report
from tests.loadtests.scripted import web
from tests.tools import need

if TYPE_CHECKING:
    from loadtests.model import Scenario

_REPORT = """\
Running 60m test @ http://127.0.0.1:8080/small
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   664.21us  288.03us   9.69ms   95.92%
    Req/Sec    48.88k     3.17k   52.98k    75.00%
  Latency Distribution
     50%  612.50us
     75%  702.00us
     90%  799.00us
     99%    1.62ms
  19584 requests in 0.40s, 6.76MB read
Requests/sec:  48762.32
Transfer/sec:     16.83MB
"""
_FAILURES = """\
  Socket errors: connect 1, read 20, write 300, timeout 4000
  Non-2xx or 3xx responses: 50000
Requests/sec:"""


def test_rate_and_latency_are_what_wrk_printed() -> None:
    assert read_report(_REPORT) == {"requests": 19584, "rate": 48762.32, "p50": 612.5, "p99": 1620, "errors": 0}


@pytest.mark.parametrize(
    ("printed", "microseconds"), [("850.00us", 850), ("1.50ms", 1500), ("2.00s", 2e6), ("1.50m", 90e6), ("1.00h", 36e8)]
)
def test_a_latency_in_any_unit_is_in_microseconds(printed: str, microseconds: float) -> None:
    assert read_report(_REPORT.replace("1.62ms", printed))["p99"] == microseconds


def test_every_kind_of_failure_counts() -> None:
    assert read_report(_REPORT.replace("Requests/sec:", _FAILURES))["errors"] == 54321


def test_there_is_no_latency_where_nothing_was_answered() -> None:
    text = _REPORT.replace("19584 requests", "0 requests").replace("48762.32", "0.00").replace("1.62ms", "0.00us")
    assert read_report(text) == {"requests": 0, "rate": 0, "errors": 0}


def test_what_is_no_report_is_shown() -> None:
    with pytest.raises(RuntimeError, match="unable to connect"):
        read_report("unable to connect to 127.0.0.1:8080 Connection refused")


def test_cpu_time_is_given_for_each_request_and_its_parts_add_up() -> None:
    assert cpu_columns(Cpu(0.5, 1.5), 100_000, 1e6) == {"user": 5.0, "system": 15.0, "cpu": 20.0}


def test_there_is_no_cpu_time_without_a_process_or_a_request() -> None:
    assert cpu_columns(Cpu(0.0, 0.0), 10) == {}
    assert cpu_columns(Cpu(1.0, 1.0), 0) == {}


@pytest.mark.parametrize("scenario", [kept(2), varied(2), new(2)], ids=lambda scenario: scenario.name)
def test_a_load_gives_every_column(scenario: Scenario) -> None:
    need("wrk", package="wrk")
    with web() as server:
        running, backends = server.running(pids=lambda: frozenset([os.getpid()]))
        sample = scenario.run(running, backends, 1.0)
    assert set(sample) == {column.name for column in scenario.columns}
    assert sample["errors"] == 0
    assert sample["rate"] > 0
    assert 0 < sample["p50"] <= sample["p99"]
    assert sample["cpu"] == pytest.approx(sample["user"] + sample["system"])
    assert {b"Connection: close" in head for head in server.asked} == {scenario.name == "new"}


def test_what_is_reached_directly_has_no_cpu_columns() -> None:
    need("wrk", package="wrk")
    with web() as server:
        sample = kept(1).run(*server.running(), 1.0)
    assert set(sample) == {"rate", "p50", "p99", "errors"}


def test_answers_that_are_errors_are_counted() -> None:
    need("wrk", package="wrk")
    unavailable = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    with web(lambda _: (unavailable, False)) as server:
        sample = kept(1).run(*server.running(), 1.0)
    assert sample["errors"] >= 1
