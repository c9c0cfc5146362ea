"""The websocket scenario counts what is echoed, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loadtests.machine import ROOT, free_port
from loadtests.scenarios.websocket import CONNECTIONS, websocket
from tests.loadtests.servers import directly, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtests.model import Backends, Running


@pytest.fixture
def echo() -> Iterator[tuple[int, int]]:
    """The server's port and pid."""
    port = free_port()
    command = [sys.executable, "-m", "loadtests.scenarios.echo_server", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout
        server.stdout.readline()
        yield port, server.pid
        server.terminate()


def test_messages_are_counted_and_timed(echo: tuple[int, int]) -> None:
    port, pid = echo
    scenario = websocket()
    sample = scenario.run(*directly(port, pid), 0.3)
    assert {column.name for column in scenario.columns} <= set(sample)
    assert sample["errors"] == 0
    assert sample["rate"] > CONNECTIONS  # each of them came round more than once
    assert 0 < sample["p50"] <= sample["p99"]
    assert sample["cpu"] == pytest.approx(sample["user"] + sample["system"])
    # One message at a time on each connection: what is on its way takes as long as it takes to be through all of them.
    assert sample["p50"] * sample["rate"] / 1e6 < 2 * CONNECTIONS


def test_directly_there_is_no_relay_s_cpu_to_report(echo: tuple[int, int]) -> None:
    sample = websocket().run(*directly(echo[0]), 0.2)
    assert not {"cpu", "user", "system"} & set(sample)


def test_a_server_that_speaks_no_websocket_is_said() -> None:
    with serving() as server, pytest.raises(RuntimeError, match="no websocket"):
        websocket().run(*directly(server.port), 0.2)


def test_a_websocket_goes_through_this_proxy(relayed: tuple[Running, Backends]) -> None:
    sample = websocket().run(*relayed, 0.5)
    assert sample["errors"] == 0
    assert sample["rate"] > CONNECTIONS
    assert sample["cpu"] > 0
