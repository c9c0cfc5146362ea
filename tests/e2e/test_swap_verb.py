"""`proxyctl swap` as scripts and people use it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import Events, Held, eventually, fetch
from tests.e2e.shared import shared_by

if TYPE_CHECKING:
    from tests.e2e.shared import Shared

KEYS = {"service", "from", "to", "result", "phases", "drained", "forced", "error"}

SAYING = {name: configs.backend(f"--say={name} is up") for name in ("v1", "v2")}
shared = shared_by(
    web={},
    other={},
    told={"v1": configs.backend(), "v2": configs.backend(), "v3": configs.backend("--exit=3")},
    plain={},
    waiting={},
    shown=SAYING,
)


def test_json_ends_with_one_object_that_has_the_keys_of_the_contract(shared: Shared) -> None:
    proxy, _ = shared("told")
    done = proxy.swap("v2", "--service", "told")
    assert set(done) >= KEYS
    assert (done["service"], done["from"], done["to"], done["error"]) == ("told", "v1", "v2", None)
    assert set(done["phases"]) == {"start", "health", "switch", "drain", "stop"}
    assert all(isinstance(seconds, float) for seconds in done["phases"].values())
    failed = proxy.swap("v3", "--service", "told")
    assert failed["result"] == "failed"
    assert "exited with status 3" in failed["error"]


def test_without_a_terminal_there_is_a_plain_line_for_each_phase(shared: Shared) -> None:
    text = shared.proxy.ok("swap", "v2", "--service", "plain")
    assert "\x1b" not in text
    words = [line.split()[0] for line in text.splitlines() if line]
    phases = [word for word in words if word in ("start", "health", "switch", "drain", "stop")]
    assert phases == ["start", "health", "switch", "drain", "stop"]


def test_no_wait_returns_while_the_old_version_still_drains(shared: Shared) -> None:
    proxy, port = shared("waiting")
    with Events(proxy) as events, Held(port) as held:
        held.ask()
        proxy.ok("swap", "v2", "--no-wait", "--deadline", "60s", "--service", "waiting")
        events.wait(phase="switch", state="end", service="waiting")
        assert held.ask().startswith("v1 ")
        assert fetch(port).startswith("v2 ")


def test_which_service_is_asked_for_where_there_are_two(shared: Shared) -> None:
    proxy, web, other = shared.proxy, shared.ports["web"], shared.ports["other"]
    done = proxy.ctl("swap", "v2")
    assert done.returncode == 2
    assert "web" in done.stderr
    assert "other" in done.stderr
    proxy.ok("swap", "v2", "--service", "other")
    assert fetch(other).startswith("v2 ")
    assert fetch(web).startswith("v1 ")


def test_status_and_logs_show_what_runs(shared: Shared) -> None:
    proxy, port = shared("shown")
    follow = proxy.popen("logs", "v2", "-f", "--service", "shown")
    proxy.operate("swap", version="v2")
    assert follow.stdout
    assert "v2 is up" in follow.stdout.readline()
    follow.terminate()
    follow.communicate(timeout=10)
    table = proxy.ok("status")
    assert "v2" in table
    assert str(proxy.pids()[0]) in table or f"127.0.0.1:{port}" in table
    shown = json.loads(proxy.ok("status", "--json"))
    assert shown["services"]["shown"]["active"] == "v2"
    eventually(lambda: "v1 is up" in proxy.ok("logs", "v1", "--service", "shown"), what="the old output is kept")
