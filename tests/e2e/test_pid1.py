"""As process 1 of a container without an init: orphans are its to reap, and the kernel gives it no default signals."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import PATIENCE, Events, Held, Proxy, eventually, fetch, free_port
from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
CLI = [sys.executable, "-P", "-m", "proxy.cli"]


class AsInit(Proxy):
    """A proxy as process 1 of a pid namespace of its own; it shares the network with the tests."""

    wrapper: Sequence[str] = ()
    """What becomes the proxy, by exec; for a start in unusual circumstances."""

    @property
    def pid(self) -> int:
        """Its number outside of the namespace."""
        assert self.process
        outer = self.process.pid
        children = Path(f"/proc/{outer}/task/{outer}/children")
        return int(eventually(lambda: children.read_text().split(), what="process 1 is there")[0])

    def start(self, *, wait: bool = True) -> None:
        if os.geteuid() != 0:
            missing("only root may make a pid namespace")
        unshare = [need("unshare", package="util-linux"), "--pid", "--fork", "--mount-proc", "--kill-child"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*unshare, *self.wrapper, *CLI, "run", str(self.config)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()

    def kill(self) -> None:
        """With process 1, the kernel ends all of its namespace."""
        if self.process and self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None

    def exited(self) -> int:
        """The exit status of process 1, which is that of `unshare`."""
        assert self.process
        return self.process.wait(PATIENCE)

    def processes(self) -> list[tuple[int, int, str, str]]:
        """Pid, parent, state and name of all in the namespace, as ps has them in it."""
        ps = self.inside(need("ps", package="procps"), "-e", "-o", "pid=,ppid=,stat=,comm=").splitlines()
        rows = [line.split(None, 3) for line in ps]
        return [(int(pid), int(parent), state, name) for pid, parent, state, name in rows if name.strip() != "ps"]

    def inside(self, *command: str) -> str:
        """Run a program in the namespaces of the proxy; returns what it printed."""
        enter = [need("nsenter", package="util-linux"), "--target", str(self.pid), "--pid", "--mount", "--net"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


def test_a_hundred_restarts_of_backends_that_leave_orphans_leave_no_zombie(tmp_path: Path) -> None:
    # One orphan ends soon, by itself; another would stay, in a session of its own.
    leaves_orphans = configs.command("sh", "-c", ": {port}; (sleep 0.05 &); (setsid sleep 600 &); exec sleep 600")
    names = [f"s{number}" for number in range(4)]
    config = "".join(
        configs.service(free_port(), name=name, health='type = "none"', v1=leaves_orphans) for name in names
    )
    with AsInit(tmp_path, config) as proxy:
        eventually(lambda: ("sleep", 1) in [(name, parent) for _, parent, _, name in proxy.processes()], what="orphans")
        failed: list[BaseException] = []

        def restart(name: str) -> None:
            try:
                for _ in range(25):
                    proxy.operate("restart", name)
            except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
                failed.append(error)

        threads = [threading.Thread(target=restart, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert [proxy.active(name)["id"] for name in names] == [26] * 4

        def settled() -> bool:
            found = proxy.processes()
            backends = [row for row in found if row[3] == "sleep"]
            return not [row for row in found if row[2].startswith("Z")] and len(backends) == 2 * len(names)

        eventually(settled, what=f"no zombies, and no other backends than the last: {proxy.processes()}")
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.exited() == 0


def test_docker_stop_is_heard_before_the_proxy_is_up(tmp_path: Path) -> None:
    """Process 1 loses a signal that it has no handler for yet (pid_namespaces(7)): docker would wait, then kill it."""
    with AsInit(tmp_path, configs.service(free_port()), wait=False) as proxy:
        pid = proxy.pid
        eventually(lambda: b"proxy.main" in Path(f"/proc/{pid}/cmdline").read_bytes(), what="the program has begun")
        os.kill(pid, signal.SIGTERM)
        assert proxy.exited() == 0


def test_what_it_starts_hears_every_signal(tmp_path: Path) -> None:
    """What is held back until the proxy can handle it must not be held back in its children, which inherit that."""
    with AsInit(tmp_path, configs.service(free_port())) as proxy:
        proxy.operate("restart")
        rows = [row for row in proxy.processes() if row[0] != 1]
        assert len(rows) >= 2
        for pid, _, _, name in rows:
            status = proxy.inside("cat", f"/proc/{pid}/status")
            assert re.search(r"(?m)^SigBlk:\s*0+$", status), name


def test_sigterm_ends_it_while_a_backend_does_not_get_healthy(tmp_path: Path) -> None:
    config = configs.service(free_port(), v1=configs.backend("--never-listen"))
    with AsInit(tmp_path, config, wait=False) as proxy:
        eventually(lambda: "proxy runs" in proxy.log_text(), what="it runs")
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.exited() == 0


def test_a_signal_that_means_nothing_does_nothing_and_sigterm_drains_to_the_end_of_the_last_connection(
    tmp_path: Path,
) -> None:
    port = free_port()
    with AsInit(tmp_path, configs.service(port)) as proxy, Events(proxy) as events, Held(port) as client:
        assert proxy.status()["proxy"]["pid"] == 1
        client.ask()
        before = proxy.pids(), proxy.workers()
        names = ("ALRM", "VTALRM", "WINCH", "TTIN", "TTOU", "TSTP", "IO", "PWR", "URG", "CONT", "CHLD", "PIPE", "RTMIN")
        for name in names:
            os.kill(proxy.pid, signal.Signals[f"SIG{name}"])
        assert client.ask().startswith("v1 ")
        assert fetch(port).startswith("v1 ")
        assert (proxy.pids(), proxy.workers()) == before

        os.kill(proxy.pid, signal.SIGTERM)
        events.wait(type="service", state="draining")
        assert client.ask().startswith("v1 ")
        client.close()
        assert proxy.exited() == 0


def test_it_runs_without_a_standard_input(tmp_path: Path) -> None:
    """The next file that is opened gets its number, and must not be taken for it."""
    port = free_port()
    proxy = AsInit(tmp_path, "workers = 2\n" + configs.service(port))
    proxy.wrapper = ["sh", "-c", 'exec "$@" <&-', "sh"]
    with proxy:
        assert fetch(port).startswith("v1 ")
        proxy.operate("swap", version="v2")
        assert fetch(port).startswith("v2 ")
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.exited() == 0


# The image of conf/docker, without Docker: its command on its config, in namespaces of its own.

_CONTAINER = """
set -e
ip link set lo up
mount -t tmpfs none /run
mount -t tmpfs none /var/lib
mkdir -m 700 /run/proxyctl /var/lib/proxyctl
cd /srv
exec "$@"
"""


def test_the_command_and_the_health_check_of_the_docker_example_work(tmp_path: Path) -> None:
    dockerfile = (ROOT / "conf/docker/Dockerfile").read_text()
    command, check = (json.loads(found) for found in re.findall(r"(?m)^\s*CMD (\[.*\])$", dockerfile)[::-1])
    assert command == ["proxyctl", "run", "/etc/proxyctl/proxy.toml"]
    need("ip", package="iproute2")
    proxy = AsInit(tmp_path, "")
    proxy.config = ROOT / "conf/docker/proxy.toml"
    proxy.wrapper = [need("unshare", package="util-linux"), "--net", "--mount", "sh", "-c", _CONTAINER, "sh"]
    environ = "PYTHONPATH=" + shlex.quote(os.environ.get("PYTHONPATH", ""))
    try:
        proxy.start(wait=False)
        interpreter = [sys.executable if word == "python3" else word for word in check]

        def is_healthy() -> bool:
            try:
                proxy.inside(*interpreter)
            except subprocess.CalledProcessError:
                return False
            return True

        eventually(is_healthy, what=f"the health check passes:\n{proxy.log_text()}")
        status = proxy.inside("env", environ, "PROXYCTL_SOCKET=/run/proxyctl/control.sock", *CLI, "status", "--json")
        assert json.loads(status)["services"]["web"]["state"] == "serving"
        page = proxy.inside(
            sys.executable, "-c", "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/'))"
        )
        assert "HTTPResponse" in page
        assert "GET / HTTP/1.1" in proxy.log_text(), "the backend's output is the container's"
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.exited() == 0
    finally:
        proxy.kill()
