"""`proxyctl swap` as scripts and people use it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import Events, Held, Proxy, eventually, fetch, free_port

if TYPE_CHECKING:
    from pathlib import Path

KEYS = {"service", "from", "to", "result", "phases", "drained", "forced", "error"}


def test_json_ends_with_one_object_that_has_the_keys_of_the_contract(tmp_path: Path) -> None:
    port = free_port()
    config = configs.service(port, v1=configs.backend(), v2=configs.backend(), v3=configs.backend("--exit=3"))
    with Proxy(tmp_path, config) as proxy:
        done = proxy.swap("v2")
        assert set(done) >= KEYS
        assert (done["service"], done["from"], done["to"], done["error"]) == ("web", "v1", "v2", None)
        assert set(done["phases"]) == {"start", "health", "switch", "drain", "stop"}
        assert all(isinstance(seconds, float) for seconds in done["phases"].values())
        failed = proxy.swap("v3")
        assert failed["result"] == "failed"
        assert "exited with status 3" in failed["error"]


def test_without_a_terminal_there_is_a_plain_line_for_each_phase(tmp_path: Path) -> None:
    with Proxy(tmp_path, configs.service(free_port())) as proxy:
        text = proxy.ok("swap", "v2")
        assert "\x1b" not in text
        words = [line.split()[0] for line in text.splitlines() if line]
        phases = [word for word in words if word in ("start", "health", "switch", "drain", "stop")]
        assert phases == ["start", "health", "switch", "drain", "stop"]


def test_no_wait_returns_while_the_old_version_still_drains(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy, Events(proxy) as events, Held(port) as held:
        held.ask()
        proxy.ok("swap", "v2", "--no-wait", "--deadline", "60s")
        events.wait(phase="switch", state="end")
        assert held.ask().startswith("v1 ")
        assert fetch(port).startswith("v2 ")


def test_which_service_is_asked_for_where_there_are_two(tmp_path: Path) -> None:
    web, other = free_port(), free_port()
    config = configs.service(web) + configs.service(other, name="other")
    with Proxy(tmp_path, config) as proxy:
        done = proxy.ctl("swap", "v2")
        assert done.returncode == 2
        assert "web" in done.stderr
        assert "other" in done.stderr
        proxy.ok("swap", "v2", "--service", "other")
        assert fetch(other).startswith("v2 ")
        assert fetch(web).startswith("v1 ")


def test_status_and_logs_show_what_runs(tmp_path: Path) -> None:
    port = free_port()
    versions = {name: configs.backend(f"--say={name} is up") for name in ("v1", "v2")}
    with Proxy(tmp_path, configs.service(port, **versions)) as proxy:
        follow = proxy.popen("logs", "v2", "-f")
        proxy.operate("swap", version="v2")
        assert follow.stdout
        assert "v2 is up" in follow.stdout.readline()
        follow.terminate()
        follow.communicate(timeout=10)
        table = proxy.ok("status")
        assert "v2" in table
        assert str(proxy.pids()[0]) in table or f"127.0.0.1:{port}" in table
        shown = json.loads(proxy.ok("status", "--json"))
        assert shown["services"]["web"]["active"] == "v2"
        eventually(lambda: "v1 is up" in proxy.ok("logs", "v1"), what="the old output is kept")
