"""Real servers behind real clients, none of them changed, each in its own way of listening and of going."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.crash_harness import Calm
from tests.e2e.harness import PATIENCE, Events, eventually, fetch, free_port
from tests.e2e.shared import Shared
from tests.e2e.steer.clients import stopped
from tests.e2e.steer.harness import Steered, result, service
from tests.e2e.steer.kernel import marked
from tests.e2e.steer.servers import Servers
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator


GROUPS = {
    "nginx": ("nginx", "nginx_workers", "nginx_reuseport"),
    "python": ("uvicorn", "gunicorn_sync", "http_server"),
    "others": ("haproxy", "node_cluster", "many_workers"),
}

# For the other tests, what is quickly started: a service for each, and the server that is behind it.
SHARED = {
    "nginx_workers": "nginx_workers",
    "nginx_reuseport": "nginx_reuseport",
    "many_workers": "many_workers",
    "many_sockets": "many_sockets",
    "wrk": "nginx_reuseport",
    "redis": "redis",
    "iperf3": "iperf3",
    "reloads-nginx": "nginx_reuseport",
    "reloads-haproxy": "haproxy",
    "gap": "many_gap",
    "overlap": "many_overlap",
    "hasty": "hasty",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("servers")
    with Servers(folder) as servers:
        ports = {name: free_port() for name in SHARED}
        tables = [_service(servers, server, ports[name], name=name) for name, server in SHARED.items()]
        with Steered(folder, "".join(tables)) as proxy:
            yield Shared(proxy, ports)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with Servers(tmp_path) as servers:
        yield servers


def _service(servers: Servers, server: str, port: int, *, name: str = "") -> str:
    versions = {version: servers.version(server, version) for version in ("v1", "v2")}
    # One that serves one client at a time takes a health check for another one.
    health = f'interval = "{"1h" if server == "iperf3" else "100ms"}"'
    return service(port, name=name or server, health=health, drain=servers.drain(server), **versions)


@pytest.mark.parametrize("group", GROUPS)
def test_an_http_server_is_swapped_under_load_and_every_connection_is_steered(
    tmp_path: Path, servers: Servers, group: str
) -> None:
    ports = {server: free_port() for server in GROUPS[group]}
    with Steered(tmp_path, "".join(_service(servers, *each) for each in ports.items())) as proxy:
        for server, port in ports.items():
            proxy.assert_steered(server)
            with Calm(port, 6) as load:
                for version in ("v2", "v1"):
                    load.wait_for(20)
                    proxy.operate("swap", server, version=version)
                    proxy.assert_steered(server)
                load.wait_for(20)
                load.stop()
            assert not load.errors, server
            assert {answer.version for answer in load.answers} == {"v1", "v2"}, server
            steered, fallen = proxy.counts(server)
            assert steered >= 20, server
            assert not fallen, server


def test_wrk_connects_for_each_request_to_nginx_with_a_socket_for_each_worker_and_sees_no_error(
    shared: Shared,
) -> None:
    wrk, (proxy, port) = need("wrk", package="wrk"), shared("wrk")
    command = [wrk, "-t1", "-c32", "-d60s", "-H", "Connection: close", f"http://127.0.0.1:{port}/"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for version in ("v2", "v1", "v2"):
            eventually(lambda: proxy.counts()[0] > 200, what="connections come")
            proxy.operate("swap", version=version)
    finally:
        process.send_signal(signal.SIGINT)  # it stops, and reports
        output = process.communicate()[0]
    assert "Socket errors" not in output
    assert "Non-2xx" not in output
    assert proxy.counts()[1] == 0


def test_every_process_of_a_server_gets_connections(shared: Shared) -> None:
    """Those that share one socket, and those that have one each, which they open when they please."""
    for server in ("many_workers", "many_sockets", "nginx_workers", "nginx_reuseport"):
        proxy, port = shared(server)
        workers = eventually(
            lambda proxy=proxy: len(found := _children(proxy.pids()[0])) == 3 and found, what="3 workers"
        )
        if server in {"many_sockets", "nginx_reuseport"}:
            _assert_all_answer(port, set(workers))
            continue
        for worker in workers:
            with contextlib.ExitStack() as stack:
                for other in set(workers) - {worker}:
                    stack.enter_context(stopped(other))
                assert fetch(port).endswith(f" {worker}")
        proxy.assert_steered()


def _assert_all_answer(port: int, workers: set[int]) -> None:
    eventually(lambda: {int(fetch(port).split()[3]) for _ in range(6)} == workers, what=f"all of {workers} answer")


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_redis_is_swapped_under_redis_benchmark(shared: Shared) -> None:
    program, (proxy, port) = need("redis-benchmark", package="redis-tools"), shared("redis")
    command = [program, "-p", str(port), "-c", "8", "-n", "12000", "-k", "0", "-t", "ping_mbulk", "--csv"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for version in ("v2", "v1"):
        eventually(lambda: proxy.counts()[0] > 100, what="connections come")
        proxy.operate("swap", version=version)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, (output, errors)
    assert "PING_MBULK" in output
    assert "rror" not in output + errors
    assert proxy.counts()[1] == 0


def test_postgresql_is_swapped_under_pgbench_and_a_session_keeps_its_server(tmp_path: Path, servers: Servers) -> None:
    pgbench, psql = need("pgbench", package="postgresql"), need("psql", package="postgresql-client")
    port, script = free_port(), tmp_path / "select.sql"
    script.write_text("SELECT 1;\n")
    at = ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
    with Steered(tmp_path, _service(servers, "postgres", port)) as proxy, Events(proxy) as events:
        proxy.assert_steered("postgres")
        session = subprocess.Popen(
            [psql, *at, "-AtqX"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        load = subprocess.Popen(
            [pgbench, *at, "-n", "-C", "-c", "4", "-T", "3", "-f", script, "postgres"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            folder = _query(session, "SHOW data_directory;")
            eventually(lambda: proxy.counts("postgres")[0] > 50, what="connections come")
            number = proxy.begin("swap", "postgres", version="v2", deadline="60s")["id"]
            events.wait(operation=number, phase="switch", state="end")
            output = load.communicate(timeout=PATIENCE)[0]
            assert load.returncode == 0, output
            assert "number of failed transactions: 0 " in output
            assert _query(session, "SHOW data_directory;") == folder
            assert proxy.generation(1, "postgres")["drain"]["remaining"] == 1  # type: ignore[index]
        finally:
            session.communicate()
            load.kill()
        assert result(events, number)["forced"] == 0
        assert proxy.counts("postgres")[1] == 0


def _query(session: subprocess.Popen[str], text: str) -> str:
    assert session.stdin
    assert session.stdout
    session.stdin.write(f"{text}\n")
    return session.stdout.readline()


def test_a_bulk_transfer_goes_on_with_its_backend_over_a_swap(shared: Shared) -> None:
    iperf3, (proxy, port), size = need("iperf3", package="iperf3"), shared("iperf3"), 1 << 30
    with Events(proxy) as events:
        command = [iperf3, "-c", "127.0.0.1", "-p", str(port), "-n", str(size), "--json"]
        client = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        eventually(lambda: marked(port) >= 2, what="it has connected")
        with stopped(client.pid):
            number = proxy.begin_swap(events, "v2", deadline="60s")
        output = client.communicate(timeout=PATIENCE)[0]
        assert client.returncode == 0, output
        assert json.loads(output)["end"]["sum_sent"]["bytes"] >= size
        ended = result(events, number)
        assert (ended["drained"], ended["forced"]) == (2, 0)


@pytest.mark.parametrize("how", ["gap", "overlap"])
def test_a_backend_that_listens_anew_is_steered_to_again_and_nobody_is_refused_meanwhile(
    shared: Shared, how: str
) -> None:
    proxy, port = shared(how)
    (pid,) = proxy.pids()
    private = int(proxy.active()["replicas"][0]["address"].rpartition(":")[2])
    before = _listeners(private)
    os.kill(pid, signal.SIGHUP)
    eventually(lambda: len(found := _listeners(private)) == 1 and found != before, what="it listens anew")
    with Calm(port, 3) as load:
        proxy.wait_steered(port)
        load.wait_for(10)
        load.stop()
        assert not load.errors
    assert proxy.pids() == [pid]
    proxy.assert_steered()


def _listeners(port: int) -> set[str]:
    """The inodes of the sockets that listen on a port of 127.0.0.1."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {line[9] for line in lines if line[3] == "0A" and line[1] == f"0100007F:{port:04X}"}


@pytest.mark.parametrize(("server", "number"), [("nginx", signal.SIGHUP), ("haproxy", signal.SIGUSR2)])
def test_a_server_reloads_its_own_config_with_new_processes_and_nobody_notices(
    shared: Shared, server: str, number: signal.Signals
) -> None:
    proxy, port = shared(f"reloads-{server}")
    with Calm(port, 3) as load:
        load.wait_for(10)
        (pid,) = proxy.pids()
        before = set(_children(pid))
        os.kill(pid, number)
        eventually(lambda: (after := set(_children(pid))) and not after & before, what="its processes are new")
        load.wait_for(10)
        proxy.wait_steered(port)
        load.stop()
        assert not load.errors
        assert proxy.pids() == [pid]
        proxy.operate("swap", version="v2")
        proxy.wait_steered(port)


def test_a_server_that_just_goes_when_it_is_told_so_is_told_last_and_nobody_notices(shared: Shared) -> None:
    proxy, port = shared("hasty")
    with Calm(port, 6) as load:
        for version in ("v2", "v1", "v2"):
            load.wait_for(20)
            proxy.operate("swap", version=version)
        load.wait_for(20)
        load.stop()
        assert not load.errors
