"""Unix sockets and IPv6 on either side, and backends that run elsewhere."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e import configs
from tests.e2e.harness import Events, Held, Load, Proxy, eventually, fetch, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_unix_sockets_on_both_sides_are_swapped_like_ports(tmp_path: Path) -> None:
    public = tmp_path / "public.sock"
    versions = {name: configs.backend(at="--socket={socket}") for name in ("v1", "v2")}
    with Proxy(tmp_path, configs.service(f"unix:{public}", **versions)) as proxy, Events(proxy) as events:
        (replica,) = proxy.active()["replicas"]
        assert replica["address"].startswith("unix:/")
        with Held(path=public) as held:
            assert held.ask().startswith("v1 1 ")
            number = proxy.begin("swap", version="v2")["id"]
            events.wait(operation=number, phase="switch", state="end")
            assert held.ask().startswith("v1 1 ")
            with Held(path=public) as new:
                assert new.ask().startswith("v2 2 ")
        assert events.wait(operation=number, type="result")["result"]["drained"] == 1
        assert not Path(replica["address"].removeprefix("unix:")).exists()
        assert len(list(proxy.state_dir.glob("sockets/*"))) == 1


def test_a_public_socket_that_a_killed_proxy_left_is_taken_over_and_a_file_is_not(tmp_path: Path) -> None:
    public = tmp_path / "public.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(public))
    with Proxy(tmp_path, configs.service(f"unix:{public}")), Held(path=public) as client:
        assert client.ask().startswith("v1 1 ")
    public.write_text("somebody's work")
    proxy = Proxy(tmp_path, configs.service(f"unix:{public}"))
    proxy.start(wait=False)
    assert proxy.process
    assert proxy.process.wait(10) == 1
    assert public.read_text() == "somebody's work"


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6: `sysctl net.ipv6.conf.lo.disable_ipv6=0`")
def test_ipv4_and_ipv6_listeners_of_one_port_and_an_ipv6_backend(tmp_path: Path) -> None:
    port, elsewhere = free_port(), free_port()
    with _running("--host=::1", f"--port={elsewhere}"):
        config = configs.service(
            [f"0.0.0.0:{port}", f"[::]:{port}"], v1=configs.backend(), v2=f'address = "[::1]:{elsewhere}"\n'
        )
        with Proxy(tmp_path, config) as proxy:
            assert fetch(port).startswith("v1 ")
            assert fetch(port, host="::1").startswith("v1 ")
            proxy.operate("swap", version="v2")
            assert fetch(port).startswith("- ")
            assert fetch(port, host="::1").startswith("- ")


def test_versions_that_run_elsewhere_are_checked_and_switched_and_not_stopped(tmp_path: Path) -> None:
    port, one, two = free_port(), free_port(), free_port()
    health = 'interval = "100ms"\nstart_timeout = "1s"'
    config = configs.service(
        port,
        health=health,
        v1=f'address = "localhost:{one}"\n',
        v2=f'address = ["127.0.0.1:{one}", "127.0.0.1:{two}"]\n',
    )
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(_running(f"--port={one}"))
        proxy = stack.enter_context(Proxy(tmp_path, config))
        load = stack.enter_context(Load(port, 4))
        load.wait_for(10)
        result = proxy.begin("swap", version="v2", wait=True, deadline=1)
        assert result["result"] == "failed", "the second address does not answer"
        assert f"127.0.0.1:{two}" in result["error"]
        load.wait_for(10)
        second = stack.enter_context(_running(f"--port={two}"))
        proxy.operate("swap", version="v2")
        pids = {str(first.pid), str(second.pid)}
        eventually(lambda: {answer.body.split()[3] for answer in load.answers[-20:]} == pids, what="both serve")
        proxy.operate("swap", version="v1")
        load.wait_for(10)
        assert first.poll() is second.poll() is None
        proxy.kill()
        assert first.poll() is second.poll() is None
        load.stop()


@contextlib.contextmanager
def _running(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The backend of the tests, started by somebody else, and listening."""
    script = Path(configs.__file__).with_name("backend.py")
    process = subprocess.Popen([sys.executable, "-I", "-S", str(script), *options])
    try:
        host, port = "127.0.0.1", 0
        for option in options:
            if option.startswith("--host="):
                host = option.removeprefix("--host=")
            else:
                port = int(option.removeprefix("--port="))
        Held(port, host=host, patient=True).close()
        yield process
    finally:
        process.kill()
        process.wait()
