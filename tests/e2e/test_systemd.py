"""Under a service manager: what it is told and when (sd_notify(3)), and listeners that it opened (sd_listen_fds(3))."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.e2e import configs
from tests.e2e.harness import PATIENCE, Held, Proxy, eventually, fetch, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

# Puts descriptors where systemd does, says whom they are for, and becomes the program.
_LAUNCH = """
import fcntl, os, sys
given = [int(number) for number in sys.argv[1].split(",") if number]
aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100) for descriptor in given]
for descriptor in given:
    os.close(descriptor)
for number, descriptor in enumerate(aside, 3):
    os.dup2(descriptor, number)
os.environ.update({name: str(os.getpid()) for name in ("LISTEN_PID", "WATCHDOG_PID")})
os.execv(sys.argv[2], sys.argv[2:])
"""
OURS = {
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "PROXY_INHERITED",
}


class Manager:
    """The notify socket of a service manager; use as a context manager. `heard` is every message with its time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.heard: list[tuple[float, dict[str, str]]] = []
        self._arrived = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while text := self._socket.recv(1 << 16).decode():
            with self._arrived:
                self.heard.append((time.monotonic(), dict(line.split("=", 1) for line in text.splitlines())))
                self._arrived.notify_all()

    def all(self, *names: str, since: int = 0) -> list[dict[str, str]]:
        """The messages with one of these assignments, from a number on."""
        return [message for _, message in self.heard[since:] if set(names) & set(message)]

    def wait(self, name: str, value: str = "", *, since: int = 0) -> dict[str, str]:
        """The first message with this assignment; where the value matters, it contains `value`."""

        def find() -> dict[str, str] | None:
            return next((message for message in self.all(name, since=since) if value in message[name]), None)

        with self._arrived:
            found = self._arrived.wait_for(find, PATIENCE)
        assert found, f"no {name}={value}; heard {[message for _, message in self.heard]}"
        return found


class Managed(Proxy):
    """A proxy as a service manager starts it."""

    def __init__(self, folder: Path, config: str, *, wait: bool = True, **environ: str) -> None:
        super().__init__(folder, config, wait=wait)
        self._environ = environ
        self._listeners: dict[str, list[socket.socket]] = {}

    def give(self, name: str, listener: socket.socket) -> None:
        """Open a listener for it, before it starts."""
        self._listeners.setdefault(name, []).append(listener)

    def start(self, *, wait: bool = True) -> None:
        environ = {**os.environ, **self._environ}
        given = [(name, sock.fileno()) for name, socks in self._listeners.items() for sock in socks]
        if given:
            environ |= {"LISTEN_FDS": str(len(given)), "LISTEN_FDNAMES": ":".join(name for name, _ in given)}
        numbers = [number for _, number in given]
        command = [sys.executable, "-I", "-S", "-c", _LAUNCH, ",".join(map(str, numbers))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, sys.executable, "-P", "-m", "proxy.cli", "run", str(self.config)],
                env=environ,
                pass_fds=numbers,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()


def notified(folder: Path, config: str, manager: Manager, **environ: str) -> Managed:
    """A proxy that is started and has not been waited for."""
    return Managed(folder, config, wait=False, NOTIFY_SOCKET=str(manager.path), **environ)


def sick_while(file: Path, *, start_timeout: str = "30s") -> dict[str, str]:
    """The keys of a service that is not healthy while the file exists."""
    return {
        "health": f'type = "http"\npath = "/health"\ninterval = "50ms"\nstart_timeout = "{start_timeout}"\n',
        "v1": configs.backend(f"--sick={file}"),
    }


def test_the_start_is_over_when_every_service_has_its_first_healthy_generation(tmp_path: Path) -> None:
    sick = tmp_path / "sick"
    sick.touch()
    config = configs.service(free_port()) + configs.service(free_port(), name="api", **sick_while(sick))
    with Manager(tmp_path) as manager, notified(tmp_path, config, manager) as proxy:
        manager.wait("STATUS", "web: v1 serving; api: v1 starting")
        eventually(lambda: proxy.request("GET", "/livez")[0] == 200, what="the API answers")
        assert not manager.all("READY")
        sick.unlink()
        assert manager.wait("READY") == {"READY": "1", "MAINPID": str(proxy.pid)}
        assert proxy.request("GET", "/readyz")[0] == 200
        manager.wait("STATUS", "web: v1 serving; api: v1 serving")


def test_a_service_that_never_gets_healthy_does_not_make_systemd_end_the_others(tmp_path: Path) -> None:
    sick, port = tmp_path / "sick", free_port()
    sick.touch()
    config = configs.service(port, health='interval = "50ms"\nstart_timeout = "1s"')
    config += configs.service(free_port(), name="api", **sick_while(sick, start_timeout="2s"))
    with Manager(tmp_path) as manager, notified(tmp_path, config, manager) as proxy:
        manager.wait("EXTEND_TIMEOUT_USEC")
        manager.wait("READY")
        assert proxy.request("GET", "/readyz")[0] == 503
        manager.wait("STATUS", "api: ")
        assert fetch(port).startswith("v1 ")
        assert "not every service is healthy yet" in proxy.log_text()


def test_a_reload_is_told_from_its_begin_to_its_end(tmp_path: Path) -> None:
    config = configs.service(free_port())
    with Manager(tmp_path) as manager, notified(tmp_path, config, manager) as proxy:
        manager.wait("READY")
        for text, status in ((config + configs.service(free_port(), name="api"), 0), ("broken", 2), (config, 0)):
            before, asked = len(manager.heard), time.monotonic_ns() // 1000
            proxy.write(text)
            assert proxy.ctl("reload").returncode == status
            manager.wait("READY", since=before)
            told = manager.all("RELOADING", "READY", since=before)
            assert [sorted(message) for message in told] == [["MONOTONIC_USEC", "RELOADING"], ["READY"]]
            assert asked <= int(told[0]["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        before = len(manager.heard)
        os.kill(proxy.pid, signal.SIGHUP)
        manager.wait("RELOADING", since=before)
        manager.wait("READY", since=before)


def test_an_upgrade_is_told_like_a_reload_and_keeps_the_main_process(tmp_path: Path) -> None:
    port = free_port()
    config = configs.service(port)
    with (
        Manager(tmp_path) as manager,
        notified(tmp_path, config, manager, WATCHDOG_USEC="20000000") as proxy,
    ):
        manager.wait("READY")
        with Held(port) as client:
            client.ask()
            before, pid = len(manager.heard), proxy.pid
            proxy.ok("upgrade")
            ready = manager.wait("READY", since=before)
            assert manager.all("RELOADING", "READY", since=before)[0].get("RELOADING") == "1"
            assert ready.get("MAINPID", str(pid)) == str(pid)
            assert proxy.status()["proxy"]["pid"] == pid
            manager.wait("WATCHDOG", since=before)
            manager.wait("STATUS", since=before)
            client.ask()
            # The next image knows its manager as well.
            before = len(manager.heard)
            proxy.ok("reload")
            manager.wait("READY", since=before)
        assert not _managers_variables([*proxy.pids(), *proxy.workers()])


def test_signs_of_life_come_at_half_their_interval_and_not_from_a_control_process_that_hangs(tmp_path: Path) -> None:
    port = free_port()
    with (
        Manager(tmp_path) as manager,
        notified(tmp_path, configs.service(port), manager, WATCHDOG_USEC="400000") as proxy,
    ):
        manager.wait("READY")
        since = len(manager.heard)
        began = time.monotonic()
        proxy.operate("swap", version="v2")
        while len(manager.all("WATCHDOG", since=since)) < 15:
            manager.wait("WATCHDOG", since=len(manager.heard))
        took = time.monotonic() - began
        beats = [when for when, message in manager.heard[since:] if "WATCHDOG" in message]
        assert max(after - before for before, after in pairwise(beats)) < 0.4
        assert took > 15 * 0.2 * 0.8, "twice in each interval, not all the time"

        assert fetch(port).startswith("v2 ")
        os.kill(proxy.pid, signal.SIGSTOP)
        eventually(lambda: _state(proxy.pid) == "T", what="it is stopped")
        since = len(manager.heard)
        assert fetch(port).startswith("v2 ")
        time.sleep(1)  # nothing can be waited for: this is about what does not come
        assert not manager.all("WATCHDOG", since=since)
        os.kill(proxy.pid, signal.SIGCONT)
        manager.wait("WATCHDOG", since=since)


def test_the_stop_is_told_when_it_begins_and_gets_the_time_it_takes(tmp_path: Path) -> None:
    """Also: without a watchdog there are no signs of life."""
    port = free_port()
    with Manager(tmp_path) as manager, notified(tmp_path, configs.service(port), manager) as proxy:
        manager.wait("READY")
        with Held(port) as client:
            client.ask()
            since = len(manager.heard)
            os.kill(proxy.pid, signal.SIGTERM)
            assert int(manager.wait("STOPPING", since=since)["EXTEND_TIMEOUT_USEC"]) > 10_000_000
            manager.wait("STATUS", "draining, 1 connection", since=since)
            assert client.ask().startswith("v1 ")
        assert proxy.process
        assert proxy.process.wait(20) == 0
        assert len(manager.all("STOPPING")) == 1
        assert not manager.all("WATCHDOG")
        assert not manager.all("READY", since=since)


def test_what_the_manager_says_to_the_proxy_is_kept_from_backends_and_workers(tmp_path: Path) -> None:
    """A backend that said READY or WATCHDOG would speak for the proxy; one that took LISTEN_FDS, close its files."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Manager(tmp_path) as manager:
        environ = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "20000000"}
        proxy = Managed(tmp_path, configs.service(listener.getsockname()[1]), **environ)
        proxy.give("web", listener)
        with proxy:
            assert not _managers_variables([*proxy.pids(), *proxy.workers()])


# Socket activation.


def test_run_binds_nothing_itself_where_it_is_given_the_listener(tmp_path: Path) -> None:
    """Also: who connected before the proxy was there is served."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        port = listener.getsockname()[1]
        proxy = Managed(tmp_path, "workers = 2\n" + configs.service(port))
        proxy.give("web", listener)
        with Held(port) as early:
            early.send()
            proxy.start()
            assert early.answer().startswith("v1 ")
        try:
            assert fetch(port).startswith("v1 ")
            inode = os.fstat(listener.fileno()).st_ino
            assert _listening_inodes(port) == {inode}
            for pid in proxy.workers():
                assert inode in _socket_inodes(pid)
            proxy.operate("swap", version="v2")
            assert fetch(port).startswith("v2 ")
            proxy.ok("reload")
            assert _listening_inodes(port) == {inode}
        finally:
            proxy.kill()
        # The manager goes on listening: who comes now waits for the next start.
        with Held(port) as late:
            late.send()
            with proxy:
                assert late.answer().startswith("v2 ")


def test_what_the_manager_did_not_open_is_bound_and_what_nobody_wants_is_said(tmp_path: Path) -> None:
    second = free_port()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as stray:
        port = listener.getsockname()[1]
        proxy = Managed(tmp_path, configs.service([f"127.0.0.1:{port}", f"127.0.0.1:{second}"]))
        proxy.give("web", listener)
        proxy.give("old", stray)
        with proxy:
            assert fetch(port).startswith("v1 ")
            assert fetch(second).startswith("v1 ")
            assert f"127.0.0.1:{stray.getsockname()[1]} (old" in proxy.log_text()
            assert os.fstat(stray.fileno()).st_ino not in _socket_inodes(proxy.pid)


def test_one_listener_for_both_families_serves_both_addresses(tmp_path: Path) -> None:
    """As ListenStream=80 opens it."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        proxy = Managed(tmp_path, configs.service([f"0.0.0.0:{port}", f"[::]:{port}"]))
        proxy.give("web", listener)
        with proxy:
            assert fetch(port).startswith("v1 ")
            assert fetch(port, host="::1").startswith("v1 ")
            assert _listening_inodes(port) == {os.fstat(listener.fileno()).st_ino}


def test_the_file_of_a_unix_listener_is_the_managers_to_remove(tmp_path: Path) -> None:
    path = tmp_path / "public.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        proxy = Managed(tmp_path, configs.service(f"unix:{path}"))
        proxy.give("web", listener)
        with proxy:
            with Held(path=path) as client:
                assert client.ask().startswith("v1 ")
            proxy.ok("stop")
            assert path.exists()
        with Held(path=path) as late:
            late.send()
            with proxy:
                assert late.answer().startswith("v1 ")


def test_a_socket_that_is_no_listener_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        proxy = Managed(tmp_path, configs.service(free_port()), wait=False)
        proxy.give("web", datagram)
        with proxy:
            assert proxy.process
            assert proxy.process.wait(PATIENCE) == 1
            assert 'descriptor 3 ("web") of the service manager is not a listening stream socket' in proxy.log_text()


def test_an_upgrade_and_a_new_start_after_a_crash_keep_the_managers_listener(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        port = listener.getsockname()[1]
        inode = os.fstat(listener.fileno()).st_ino
        proxy = Managed(tmp_path, configs.service(port))
        proxy.give("web", listener)
        with proxy:
            proxy.ok("upgrade")
            assert _listening_inodes(port) == {inode}
            assert fetch(port).startswith("v1 ")
            with _crashed(proxy):
                assert fetch(port).startswith("v1 "), "workers outlive control"
            assert _listening_inodes(port) == {inode}
            assert fetch(port).startswith("v1 ")
            assert "not configured" not in proxy.log_text()


@contextmanager
def _crashed(proxy: Managed) -> Iterator[None]:
    """The control process is killed, and started again in the end, as systemd does it."""
    assert proxy.process
    proxy.process.kill()
    proxy.process.wait()
    yield
    proxy.start()


def _managers_variables(pids: list[int]) -> dict[int, set[str]]:
    """Which of the manager's variables the processes were started with."""
    assert pids
    found = {}
    for pid in pids:
        names = {pair.partition(b"=")[0].decode() for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
        found[pid] = names & OURS
    return {pid: names for pid, names in found.items() if names}


def _socket_inodes(pid: int) -> set[int]:
    links = (os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return {int(link[8:-1]) for link in links if link.startswith("socket:[")}


def _listening_inodes(port: int) -> set[int]:
    """The inodes of all sockets that listen on a TCP port (proc_net(5))."""
    rows = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {int(row[9]) for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
