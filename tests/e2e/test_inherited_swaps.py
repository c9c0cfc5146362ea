"""Swaps between servers that accept on the public listener themselves: nobody is refused, and nobody is reset.

`INHERIT_SWAPS=50 pytest tests/e2e/test_inherited_swaps.py` swaps 50 times under load, and with one server more.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e import inherited_harness
from tests.e2e.crash_harness import Calm
from tests.e2e.harness import Load, Proxy, fetch, free_port, is_alive
from tests.e2e.inherited_harness import INHERIT, heir, service, uvicorn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FULL = "INHERIT_SWAPS" in os.environ
SWAPS = int(os.environ.get("INHERIT_SWAPS", "3"))
CLIENTS = 8 if FULL else 4


def _heir(_: Path) -> str:
    return heir("--fd={fd}")


_SERVERS: dict[str, Callable[[Path], str]] = {
    "systemd-style": _heir,
    "uvicorn": inherited_harness.patient_uvicorn,
    "gunicorn": inherited_harness.gunicorn,
}
if FULL:
    _SERVERS["gunicorn-gthread"] = inherited_harness.gunicorn_gthread


@pytest.mark.parametrize("server", _SERVERS)
def test_swap_after_swap_under_load_nobody_is_refused_or_reset(tmp_path: Path, server: str) -> None:
    version, port, over = _SERVERS[server](tmp_path), free_port(), []
    config = service(port, v1=version, v2=version)
    with Proxy(tmp_path, config) as proxy, Load(port, CLIENTS) as load:
        listener = inherited_harness.listener(port)
        load.wait_for(CLIENTS)
        for number in range(SWAPS):
            (old,) = proxy.pids()
            ended = proxy.operate("swap", version=("v2", "v1")[number % 2])
            over.append(time.monotonic())
            assert 0 < ended["overlap"] < ended["finished"] - ended["started"]
            assert ended["forced"] == 0
            assert not is_alive(old)
            load.wait_for(CLIENTS)
        assert inherited_harness.listener(port) == listener
        load.stop()

    assert not load.errors
    assert {answer.generation for answer in load.answers} == set(range(1, SWAPS + 2))
    for generation, moment in enumerate(over, 1):
        assert not [each for each in load.answers if each.began > moment and each.generation <= generation]


def test_uvicorn_as_it_is_with_a_health_command_refuses_nobody(tmp_path: Path) -> None:
    """Whom it has accepted and not heard of when it is told to stop, it drops; that is its own doing."""
    port = free_port()
    version = f'{uvicorn(tmp_path)}env = {{ READY = "{tmp_path}/ready-{{generation}}" }}\n'
    health = f'type = "command"\ncommand = ["test", "-e", "{tmp_path}/ready-{{generation}}"]\ninterval = "100ms"'
    with Proxy(tmp_path, service(port, health=health, v1=version, v2=version)) as proxy, Calm(port, 3) as load:
        for number in range(2):
            load.wait_for(5)
            proxy.operate("swap", version=("v2", "v1")[number])
        load.wait_for(5)
        load.stop()
        assert not [error for error in load.errors if "Refused" in error or "timed out" in error]
        assert fetch(port).startswith("v1 3 ")


def test_from_the_relay_to_the_backends_and_back_nobody_is_refused_or_reset(tmp_path: Path) -> None:
    """Under a relay the listener does not block, and who is given it then has to cope with that."""
    port = free_port()
    version = heir("--port={port}", "--lenient")
    versions = dict.fromkeys(("v1", "v2", "v3"), version)
    with Proxy(tmp_path, service(port, keys="", **versions)) as proxy, Load(port, 4) as load:
        load.wait_for(10)
        assert proxy.service()["datapath"] == "relay"

        proxy.write(service(port, keys=INHERIT, **versions))
        proxy.ok("reload")
        shown = proxy.service()
        assert (shown["datapath"], shown["datapath_configured"]) == ("relay", "inherit")
        assert "next swap" in shown["datapath_reason"]
        load.wait_for(10)
        proxy.operate("swap", version="v2")
        assert proxy.service()["datapath"] == "inherit"
        load.wait_for(10)
        proxy.operate("swap", version="v3")
        assert all(fetch(port).split()[:2] == ["v3", "3"] for _ in range(5))

        proxy.write(service(port, keys="", **versions))
        proxy.ok("reload")
        assert proxy.service()["datapath"] == "inherit"
        load.wait_for(10)
        proxy.operate("swap", version="v1")
        assert (proxy.service()["datapath"], proxy.service()["datapath_reason"]) == ("relay", "")
        load.wait_for(10)
        load.stop()
        assert not load.errors
        assert {answer.generation for answer in load.answers} == {1, 2, 3, 4}


def test_a_server_that_does_not_block_goes_on_after_a_reload(tmp_path: Path) -> None:
    """All who have the listener share its O_NONBLOCK: asyncio would be caught in its second accept(2)."""
    port, version = free_port(), uvicorn(tmp_path)
    with Proxy(tmp_path, service(port, v1=version)) as proxy:
        proxy.write(service(port, v1=version, drain='deadline = "7s"'))
        proxy.ok("reload")
        assert fetch(port, timeout=5).startswith("v1 1 ")


def test_a_server_that_does_not_block_takes_over_from_the_relay(tmp_path: Path) -> None:
    port, relayed, version = free_port(), heir("--port={port}"), uvicorn(tmp_path)
    with Proxy(tmp_path, service(port, keys="", v1=relayed)) as proxy:
        proxy.write(service(port, v1=relayed, v2=version))
        proxy.ok("reload")
        proxy.operate("swap", version="v2")
        assert fetch(port, timeout=5).startswith("v2 2 ")
