"""What is refused, and that the answer says enough to go on."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import Events, Held, Proxy, fetch, free_port
from tests.e2e.shared import shared_by

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.shared import Shared

DATED = {name: configs.backend() for name in ("blue", "2026-11-20", "2026-11-21")}
NEVER = {"v1": configs.backend(), "v2": configs.backend("--never-listen"), "v3": configs.backend()}
shared = shared_by(web={}, starting=NEVER, dated={"active": "blue", **DATED}, detached={})


def test_a_second_proxy_on_the_same_state_folder_fails_at_once_and_names_the_first(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy:
        (pid,) = proxy.pids()
        second = Proxy(tmp_path, configs.service(other))
        second.start(wait=False)
        assert second.process
        assert second.process.wait(10) == 1
        text = second.log_text()
        assert f"pid {proxy.pid}" in text
        assert "proxy.main" in text, "its command line"
        assert str(proxy.state_dir) in text
        assert fetch(port).endswith(str(pid))
        assert proxy.operate("swap", version="v2")


def test_a_taken_port_fails_at_once_and_names_who_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        proxy = Proxy(tmp_path, configs.service(port))
        proxy.start(wait=False)
        assert proxy.process
        assert proxy.process.wait(10) == 1
        text = proxy.log_text()
        assert f"127.0.0.1:{port} is taken by pid {os.getpid()} (" in text
        assert f"pid {os.getpid()} " in text
        assert "Traceback" not in text
        assert not (proxy.state_dir / "output").exists(), "nothing was started"


def test_a_taken_control_socket_fails_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    with Proxy(tmp_path, configs.service(free_port())) as first:
        second = Proxy(folder, configs.service(free_port()))
        second.socket = first.socket
        second.write(configs.service(free_port()))
        second.start(wait=False)
        assert second.process
        assert second.process.wait(10) == 1
        assert str(first.socket) in second.log_text()
        assert str(first.pid) in second.log_text()
        assert first.service()["state"] == "serving"


def test_a_swap_during_the_start_of_another_is_refused_and_says_which_in_which_phase_since_when(shared: Shared) -> None:
    proxy, port = shared("starting")
    with Events(proxy) as events:
        number = proxy.begin("swap", version="v2")["id"]
        events.wait(operation=number, phase="health", state="begin")
        for arguments in (("swap", "v3"), ("restart",), ("swap", "v2")):
            done = proxy.ctl(*arguments, "--service", "starting")
            assert done.returncode == 1
            assert "swap of starting to v2 is under way: in phase health, begun" in done.stderr
            assert " s ago" in done.stderr
        assert proxy.service()["state"] == "swapping"
        assert fetch(port).startswith("v1 1 ")


def test_a_swap_to_the_active_version_points_to_restart(shared: Shared) -> None:
    done = shared.proxy.ctl("swap", "v1", "--service", "web")
    assert done.returncode == 1
    assert "v1 is already active in web (generation 1)" in done.stderr
    assert "proxyctl restart" in done.stderr


def test_an_unknown_version_lists_the_known_ones_nearest_first(shared: Shared) -> None:
    done = shared.proxy.ctl("swap", "2026-11-22", "--service", "dated")
    assert done.returncode == 2
    assert "2026-11-22" in done.stderr
    names = [done.stderr.rindex(name) for name in ("2026-11-20", "blue")]
    assert names == sorted(names)
    status, answer = shared.proxy.ask("POST", "/v1/services/webb/swap", {"version": "v2"})
    assert (status, answer["error"]["code"]) == (404, "unknown_service")
    assert "web" in answer["error"]["message"]


def test_ctrl_c_on_swap_detaches_and_the_swap_goes_on(shared: Shared) -> None:
    proxy, port = shared("detached")
    with Events(proxy) as events, Held(port) as held:
        held.ask()
        client = proxy.popen("swap", "v2", "--deadline", "60s", "--service", "detached")
        events.wait(phase="drain", state="begin", service="detached")
        # The line that it prints when the drain begins shows that it watches.
        assert client.stdout
        assert any("switch" in line for line in iter(client.stdout.readline, ""))
        client.send_signal(signal.SIGINT)
        out, err = client.communicate(timeout=10)
        assert client.returncode == 130
        assert "goes on" in out + err
        assert held.ask().startswith("v1 ")
        held.close()
        assert events.wait(type="result", service="detached")["result"]["result"] == "swapped"
        assert fetch(port).startswith("v2 ")


def test_without_a_proxy_every_verb_says_so_and_exits_with_3(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, configs.service(free_port()))
    for verb in ("status", "restart", "rollback", "history", "reload", "pause", "resume", "stop"):
        done = proxy.ctl(verb)
        assert done.returncode == 3, (verb, done)
        assert str(proxy.socket) in done.stderr
