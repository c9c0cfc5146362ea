"""A new version that does not work: it is said why, and nothing else happens. One proxy is used for all of them."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.e2e import configs
from tests.e2e.harness import Events, Load, Proxy, free_port, processes_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BROKEN = {
    "never-listens": (
        configs.backend("--say=loading the model", "--never-listen"),
        ["not healthy within 1s", "tcp check", "connection refused"],
        "loading the model",
    ),
    "exits": (
        configs.backend("--say=no database", "--exit=3"),
        ["exited with status 3 before it was healthy"],
        "no database",
    ),
    "fails-its-check": (
        configs.backend("--say=half asleep", "--sick=/dev/null"),
        ["not healthy within 1s", "GET /health", "HTTP 503 Service Unavailable"],
        "half asleep",
    ),
    "wrong-port": (
        configs.backend("--say=listening on my own", at="--port={free}"),
        ["nothing listens on 127.0.0.1:", "the process listens on 127.0.0.1:{free}"],
        "listening on my own",
    ),
    "no-such-program": (configs.command("/nowhere/app", "{port}"), ["command not found: /nowhere/app"], ""),
}


@dataclass
class World:
    """A proxy whose services `web` and `site` have all the broken versions; `site` has a check that asks over HTTP."""

    proxy: Proxy
    ports: dict[str, int]
    free: str
    """The port that a version listens on although it was given another."""
    ask: Path
    """A fifo in which a version that never listens says which port it was given."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("w")
    ports, free, ask = {name: free_port() for name in ("web", "site", "patient")}, str(free_port()), folder / "ask"
    os.mkfifo(ask)
    silent = f"echo it is taken, I stay all the same; echo {{port}} > {ask}; exec sleep 600"
    others = {"silent": configs.command("sh", "-c", silent), "unlucky": _unlucky(folder)}
    config = configs.service(ports["patient"], name="patient", v1=configs.backend(), **others)
    versions = {case: version.replace("{free}", free) for case, (version, _, _) in BROKEN.items()}
    health = 'start_timeout = "1s"\ninterval = "100ms"\n'
    config += configs.service(ports["web"], health=health, v1=configs.backend(), **versions)
    health += 'type = "http"\npath = "/health"'
    config += configs.service(ports["site"], name="site", health=health, v1=configs.backend(), **versions)
    with Proxy(folder, config) as proxy:
        yield World(proxy, ports, free, ask)


def _unlucky(folder: Path) -> str:
    """A version of three replicas, of which one exits at once."""
    script = folder / "start.sh"
    good = configs.backend(replicas=3).splitlines()[0].split(" = ", 1)[1]
    script.write_text('#!/bin/sh\n[ $PROXY_REPLICA = 1 ] && { echo replica 1 has no luck; exit 7; }\nexec "$@"\n')
    script.chmod(0o755)
    return f"command = {good.replace('[', f'[{str(script)!r}, ', 1)}\nreplicas = 3\n".replace("'", '"')


@pytest.mark.parametrize("case", BROKEN)
def test_a_version_that_does_not_start_is_explained_and_changes_nothing(world: World, case: str) -> None:
    _, reasons, printed = BROKEN[case]
    proxy, name = world.proxy, "site" if "check" in case else "web"
    with Load(world.ports[name], 4) as load, processes_of(f":{proxy.state_dir}") as ours:
        load.wait_for(10)
        before = ours()
        done = proxy.ctl("swap", case, "--service", name, timeout=20)
        load.wait_for(10)
        assert done.returncode == 1, done
        text = done.stdout + done.stderr
        for reason in reasons:
            assert reason.replace("{free}", world.free) in text
        assert printed in text
        assert "v1" in text, "it says what still serves"

        service = proxy.service(name)
        assert (service["state"], service["active"]) == ("serving", "v1")
        assert [each["version"] for each in service["generations"]] == ["v1"]
        last = service["last_swap"]
        assert (last["result"], last["from"], last["to"]) == ("failed", "v1", case)
        assert printed in "\n".join(last["output"])
        assert sum(last["phases"].values()) < 5
        assert set(ours()) == set(before), "nothing of the failed version runs"
    assert not load.errors
    assert {answer.body.split()[0] for answer in load.answers} == {"v1"}


def test_a_stale_process_that_answers_on_the_port_is_an_error_and_named(world: World) -> None:
    """The stranger is this test: it takes the port that the version, which never listens, was given."""
    with Events(world.proxy) as events, Load(world.ports["patient"], 4) as load:
        load.wait_for(10)
        number = world.proxy.begin("swap", "patient", version="silent")["id"]
        with world.ask.open() as fifo, socket.create_server(("127.0.0.1", int(fifo.readline()))) as stale:
            assert stale.getsockname()
            entry = events.wait(operation=number, type="result")["result"]
        assert entry["result"] == "failed"
        assert f"pid {os.getpid()}" in entry["error"]
        assert "not part of the process tree" in entry["error"]
        assert 'owner = "any"' in entry["hint"]
        assert any("I stay all the same" in line for line in entry["output"])
        assert sum(entry["phases"].values()) < 5
        load.wait_for(10)
    assert not load.errors
    assert {answer.version for answer in load.answers} == {"v1"}


def test_a_replica_that_fails_fails_the_swap_and_its_siblings_are_stopped(world: World) -> None:
    proxy = world.proxy
    with processes_of(f":{proxy.state_dir}") as ours:
        before = ours()
        result = proxy.begin("swap", "patient", version="unlucky", wait=True)
        assert result["result"] == "failed"
        assert "exited with status 7" in result["error"]
        assert result["output"] == ["replica 1 has no luck"]
        assert set(ours()) == set(before)
