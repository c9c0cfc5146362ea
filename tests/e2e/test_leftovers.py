"""What is left when the proxy has stopped, whichever way: what it remembers, and nothing else."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.e2e import configs
from tests.e2e.harness import Events, Held, Proxy, eventually, free_port, is_alive
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEPT = {"state.json", "history.jsonl", "audit.jsonl", "lock", "output"}


def _stop(proxy: Proxy) -> None:
    assert proxy.ctl("stop").returncode == 0


def _stop_now(proxy: Proxy) -> None:
    assert proxy.ctl("stop", "--now").returncode == 0


def _terminate(proxy: Proxy) -> None:
    os.kill(proxy.pid, signal.SIGTERM)


def _terminate_twice(proxy: Proxy) -> None:
    os.kill(proxy.pid, signal.SIGTERM)
    eventually(lambda: proxy.status()["proxy"]["stopping"], what="the stop has begun")
    os.kill(proxy.pid, signal.SIGTERM)


@pytest.mark.parametrize(
    ("stop", "quick"),
    [(_stop, False), (_stop_now, True), (_terminate, False), (_terminate_twice, True)],
    ids=["stop", "stop-now", "SIGTERM", "SIGTERM-twice"],
)
def test_nothing_is_left_over(tmp_path: Path, stop: Callable[[Proxy], None], quick: bool) -> None:
    """With connections open, a generation that drains, a warm one, grandchildren, and Unix sockets on both sides."""
    ports = [free_port() for _ in range(3)]
    public = tmp_path / "public.sock"
    grandchildren = configs.command(
        "sh", "-c", "sleep 600 & setsid sleep 600 & exec python3 -m http.server -b 127.0.0.1 {port}"
    )
    config = "workers = 2\n" + configs.service(
        [f"127.0.0.1:{ports[0]}", f"unix:{public}"],
        drain=f'deadline = "{60 if quick else 1}s"',
        v1=configs.backend(at="--socket={socket}"), v2=configs.backend(at="--socket={socket}"),
    )  # fmt: skip
    config += configs.service(ports[1], name="other", drain=f'deadline = "{60 if quick else 1}s"', v1=grandchildren)
    config += configs.service(ports[2], name="third", drain='keep_warm = "60s"')
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events, ExitStack() as stack:
        proxy.operate("swap", "third", version="v2")
        for client in (Held(ports[0]), Held(path=public)):
            stack.enter_context(client).ask()
        stack.enter_context(Held(ports[1]))
        number = proxy.begin("swap", version="v2", deadline="60s" if quick else "2s")["id"]
        events.wait(operation=number, phase="switch", state="end")
        stack.enter_context(Held(ports[0])).ask()
        assert [each["state"] for each in proxy.service()["generations"]] == ["draining", "active"]
        assert [each["state"] for each in proxy.service("third")["generations"]] == ["warm", "active"]
        found = _family(proxy.pid)
        assert len(found) >= 1 + 2 + 2 + 3 + 2
        listening = _listening(found)
        assert {f"127.0.0.1:{port}" for port in ports} <= listening

        began = time.monotonic()
        stop(proxy)
        assert proxy.process
        assert proxy.process.wait(20) == 0
        assert time.monotonic() - began < (6 if quick else 12)

        assert not [pid for pid in found if is_alive(pid)]
        left = _listening(None)
        assert not listening & left
        assert {entry.name for entry in proxy.state_dir.iterdir()} <= KEPT | {"workers", "sockets"}
        assert not [*proxy.state_dir.glob("workers/*"), *proxy.state_dir.glob("sockets/*")]
        assert not proxy.socket.exists()
        assert not public.exists()
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))


def test_stop_lets_what_is_under_way_finish_and_takes_nothing_new(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port, drain='deadline = "60s"')) as proxy, Events(proxy) as events:
        with Held(port) as client:
            client.ask()
            os.kill(proxy.pid, signal.SIGTERM)
            events.wait(type="stop")
            eventually(lambda: _refused(port), what="the listener is closed")
            assert client.ask().startswith("v1 ")
            assert proxy.request("GET", "/readyz")[0] == 503
            status, answer = proxy.ask("POST", "/v1/services/web/swap", {"version": "v2"})
            assert (status, answer["error"]["code"]) == (503, "stopping")
        assert proxy.process
        assert proxy.process.wait(10) == 0


def test_a_balancer_in_front_sees_the_stop_before_the_listener_closes(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, 'lame_duck = "1s"\n' + configs.service(port)) as proxy:
        os.kill(proxy.pid, signal.SIGTERM)
        eventually(lambda: proxy.request("GET", "/readyz")[0] == 503, what="/readyz says so")
        with Held(port) as late:
            assert late.ask().startswith("v1 ")
        assert proxy.process
        assert proxy.process.wait(10) == 0


def test_a_swap_that_is_starting_when_the_stop_comes_leaves_nothing(tmp_path: Path) -> None:
    port = free_port()
    config = configs.service(port, v1=configs.backend(), v2=configs.backend("--never-listen"))
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events:
        client = proxy.popen("swap", "v2")
        events.wait(phase="health", state="begin")
        found = _family(proxy.pid)
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.process
        assert proxy.process.wait(10) == 0
        out, err = client.communicate(timeout=10)
        assert client.returncode == 1, out + err
        assert "stop" in err
        assert not [pid for pid in found if is_alive(pid)]


def test_a_stop_in_the_middle_of_a_switch_cuts_no_connection_of_the_old_version(tmp_path: Path) -> None:
    """Four services that switch at the same time, so that the stop meets them at different points of it."""
    ports = {f"s{number}": free_port() for number in range(4)}
    config = "".join(configs.service(port, name=name) for name, port in ports.items())
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events, ExitStack() as stack:
        clients = {name: stack.enter_context(Held(port)) for name, port in ports.items()}
        for client in clients.values():
            client.ask()
        for name in ports:
            proxy.begin("swap", name, version="v2")
        events.wait(phase="switch", state="begin")
        os.kill(proxy.pid, signal.SIGTERM)
        for name, port in ports.items():
            eventually(lambda port=port: _refused(port), what="the listener is closed")
            # One connection holds each drain up, wherever the stop met its swap.
            events.wait(type="service", service=name, state="draining")
            assert proxy.status()["services"][name]["state"] == "draining"
        for client in clients.values():
            assert client.ask().startswith("v1 1 ")
            client.close()
        assert proxy.process
        assert proxy.process.wait(20) == 0


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


def _family(pid: int) -> list[int]:
    """The pids of everything below a process, with itself, as ps has them."""
    table = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(line.split()[0]): int(line.split()[1]) for line in table.splitlines()}
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def _listening(pids: list[int] | None) -> set[str]:
    """The TCP addresses that these processes, or any, listen on, as ss has them."""
    ss = need("ss", package="iproute2")
    lines = subprocess.run([ss, "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    found = {}
    for line in lines:
        for pid in re.findall(r"pid=(\d+)", line):
            found.setdefault(line.split()[3], set()).add(int(pid))
    return {address for address, owners in found.items() if pids is None or owners & set(pids)}
