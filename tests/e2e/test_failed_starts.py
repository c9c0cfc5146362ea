"""A new version that does not work: it is said why, and nothing else happens."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.e2e import configs
from tests.e2e.harness import Events, Load, Proxy, free_port, processes_of

if TYPE_CHECKING:
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


@pytest.mark.parametrize("case", BROKEN)
def test_a_version_that_does_not_start_is_explained_and_changes_nothing(tmp_path: Path, case: str) -> None:
    version, reasons, printed = BROKEN[case]
    port, free = free_port(), str(free_port())
    health = 'start_timeout = "1s"\ninterval = "100ms"\n' + (
        'type = "http"\npath = "/health"' if "check" in case else ""
    )
    config = configs.service(port, health=health, v1=configs.backend(), v2=version.replace("{free}", free))
    with Proxy(tmp_path, config) as proxy, Load(port, 4) as load, processes_of(f":{tmp_path}/state") as ours:
        load.wait_for(10)
        before = ours()
        done = proxy.ctl("swap", "v2", timeout=20)
        load.wait_for(10)
        assert done.returncode == 1, done
        text = done.stdout + done.stderr
        for reason in reasons:
            assert reason.replace("{free}", free) in text
        assert printed in text
        assert "v1" in text, "it says what still serves"

        service = proxy.service()
        assert (service["state"], service["active"]) == ("serving", "v1")
        assert [each["version"] for each in service["generations"]] == ["v1"]
        last = service["last_swap"]
        assert (last["result"], last["from"], last["to"]) == ("failed", "v1", "v2")
        assert printed in "\n".join(last["output"])
        assert sum(last["phases"].values()) < 5
        assert set(ours()) == set(before), "nothing of the failed version runs"
    assert not load.errors
    assert {answer.body.split()[0] for answer in load.answers} == {"v1"}


def test_a_stale_process_that_answers_on_the_port_is_an_error_and_named(tmp_path: Path) -> None:
    """The stranger is this test: it takes the port that the version, which never listens, was given."""
    port = free_port()
    ask = tmp_path / "ask"
    os.mkfifo(ask)
    v2 = configs.command("sh", "-c", f"echo it is taken, I stay all the same; echo {{port}} > {ask}; exec sleep 600")
    config = configs.service(port, v1=configs.backend(), v2=v2)
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events, Load(port, 4) as load:
        load.wait_for(10)
        number = proxy.begin("swap", version="v2")["id"]
        with ask.open() as fifo, socket.create_server(("127.0.0.1", int(fifo.readline()))) as stale:
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


def test_a_replica_that_fails_fails_the_swap_and_its_siblings_are_stopped(tmp_path: Path) -> None:
    port = free_port()
    script = tmp_path / "start.sh"
    good = configs.backend(replicas=3).splitlines()[0].split(" = ", 1)[1]
    script.write_text('#!/bin/sh\n[ $PROXY_REPLICA = 1 ] && { echo replica 1 has no luck; exit 7; }\nexec "$@"\n')
    script.chmod(0o755)
    v2 = f"command = {good.replace('[', f'[{str(script)!r}, ', 1)}\nreplicas = 3\n".replace("'", '"')
    config = configs.service(port, v1=configs.backend(), v2=v2)
    with Proxy(tmp_path, config) as proxy, processes_of(f":{tmp_path}/state") as ours:
        before = ours()
        result = proxy.begin("swap", version="v2", wait=True)
        assert result["result"] == "failed"
        assert "exited with status 7" in result["error"]
        assert result["output"] == ["replica 1 has no luck"]
        assert set(ours()) == set(before)
