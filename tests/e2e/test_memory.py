"""What the proxy remembers over a stop and a run, and what it does when it cannot."""

from __future__ import annotations

import json
import re
import shlex
import sys
from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import Proxy, eventually, fetch, free_port

if TYPE_CHECKING:
    from pathlib import Path


def _stop_and_run(proxy: Proxy) -> None:
    proxy.ok("stop")
    assert proxy.process
    assert proxy.process.wait(20) == 0
    proxy.start()


def test_the_version_that_was_swapped_to_runs_after_a_restart_of_the_proxy(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy:
        proxy.operate("swap", version="v2")
        _stop_and_run(proxy)
        assert fetch(port).startswith("v2 3 "), "generation numbers are never used again"
        _stop_and_run(proxy)
        assert fetch(port).startswith("v2 4 ")
        assert proxy.operate("rollback")["to"] == "v1", "and what it was before is remembered"


def test_an_edit_of_active_after_the_last_swap_is_the_newer_decision(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy:
        proxy.operate("swap", version="v2")
        proxy.ok("stop")
        proxy.kill()
        proxy.write(configs.service(port, active="v3"))
        proxy.start()
        assert fetch(port).startswith("v3 ")
        # And a swap after that edit is newer again, though the file still says v3.
        proxy.operate("swap", version="v1")
        _stop_and_run(proxy)
        assert fetch(port).startswith("v1 ")


def test_an_edit_before_the_last_swap_is_the_older_decision(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy:
        proxy.write(configs.service(port, active="v3"))  # no reload: the proxy has not been told
        proxy.operate("swap", version="v2")
        _stop_and_run(proxy)
        assert fetch(port).startswith("v2 ")


def test_a_swap_that_failed_decides_nothing(tmp_path: Path) -> None:
    port = free_port()
    config = configs.service(port, v1=configs.backend(), v2=configs.backend("--exit=1"))
    with Proxy(tmp_path, config) as proxy:
        assert proxy.begin("swap", version="v2", wait=True)["result"] == "failed"
        _stop_and_run(proxy)
        assert fetch(port).startswith("v1 ")


def test_a_version_given_on_the_command_line_is_known_from_then_on(tmp_path: Path) -> None:
    port = free_port()
    words = json.loads(configs.backend("--say=from the command line").splitlines()[0].split(" = ", 1)[1])
    with Proxy(tmp_path, configs.service(port)) as proxy:
        proxy.ok("swap", "2026-11-21", "--command", shlex.join(words))
        assert fetch(port).startswith("2026-11-21 2 ")
        assert "from the command line" in proxy.ok("logs", "2026-11-21")
        _stop_and_run(proxy)
        assert fetch(port).startswith("2026-11-21 3 ")
        proxy.operate("swap", version="v1")
        proxy.operate("swap", version="2026-11-21")
        assert fetch(port).startswith("2026-11-21 5 ")
        proxy.operate("restart")
        assert fetch(port).startswith("2026-11-21 6 ")
        assert "2026-11-21" in proxy.service()["versions"]


def test_a_command_for_a_version_that_is_configured_is_refused(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy:
        done = proxy.ctl("swap", "v2", "--command", f"{sys.executable} -c pass")
        assert done.returncode == 2
        assert "v2 is configured" in done.stderr


def test_history_survives_a_restart_of_the_proxy(tmp_path: Path) -> None:
    port = free_port()
    config = configs.service(port, v1=configs.backend(), v2=configs.backend(), v3=configs.backend("--exit=3"))
    with Proxy(tmp_path, config) as proxy:
        proxy.operate("swap", version="v2")
        proxy.begin("swap", version="v3", wait=True)
        proxy.operate("rollback")
        before = proxy.ask("GET", "/v1/history")[1]["history"]
        _stop_and_run(proxy)
        after = proxy.ask("GET", "/v1/history")[1]["history"]
        assert after == before
        shown = [(each["kind"], each["from"], each["to"], each["result"]) for each in after]
        assert shown == [
            ("swap", "v1", "v2", "swapped"),
            ("swap", "v2", "v3", "failed"),
            ("rollback", "v2", "v1", "swapped"),
        ]
        assert proxy.service()["last_swap"] == after[-1]
        printed = proxy.ok("history")
        assert re.search(r"v2.*v3.*failed", printed)
        proxy.operate("swap", version="v2")
        assert len(proxy.ask("GET", "/v1/history")[1]["history"]) == 4


def test_a_state_file_that_cannot_be_read_is_set_aside_and_the_proxy_runs(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy:
        proxy.operate("swap", version="v2")
        proxy.ok("stop")
        proxy.kill()
        file = proxy.state_dir / "state.json"
        whole = file.read_bytes()
        for broken in (whole[: len(whole) // 2], b'{"format": 99}'):
            file.write_bytes(broken)
            proxy.start()
            assert fetch(port).startswith("v1 1 ")
            (aside,) = proxy.state_dir.glob("state.json.unreadable-*")
            assert aside.read_bytes() == broken
            assert "state file is unreadable" in proxy.log_text()
            aside.unlink()
            proxy.kill()
            json.loads(file.read_bytes())


def test_a_state_folder_that_cannot_be_written_stops_no_traffic(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy:
        eventually(lambda: _took_the_place_of_the_next_state_file(proxy), what="no write is under way")
        proxy.operate("swap", version="v2")
        assert fetch(port).startswith("v2 ")
        assert proxy.status()["proxy"]["trouble"]
        (proxy.state_dir / ".state.json.new").rmdir()
        proxy.operate("swap", version="v1")
        assert not proxy.status()["proxy"]["trouble"]


def _took_the_place_of_the_next_state_file(proxy: Proxy) -> bool:
    try:
        (proxy.state_dir / ".state.json.new").mkdir()
    except FileExistsError:
        return False
    return True


def test_output_that_cannot_be_written_keeps_no_version_from_serving_and_is_said(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy:
        (proxy.state_dir / "output/web/v2").write_text("in the way")
        result = proxy.begin("swap", version="v2", wait=True)
        assert result["result"] == "swapped"
        assert fetch(port).startswith("v2 2 ")
        (trouble,) = proxy.status()["proxy"]["trouble"]
        assert trouble["kind"] == "output"
        assert "output/web/v2" in trouble["message"]
