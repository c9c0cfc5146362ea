"""Real clients and real servers with the proxy between them, and what is not HTTP/1 at all."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import PATIENCE, Events, Proxy, eventually, free_port
from tests.e2e.http_clients.running import Loop, Work
from tests.e2e.http_harness import Backends, Kept, counter, need_module, service
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENTS = ("curl", "wrk", "hey", "h2load", "httpx", "aiohttp", "urllib3", "node")

# Whether a client's connection is kept is the server's to say: these say no.
CLOSING = {"gunicorn_sync", "http_server"}


SERVERS = ("nginx", "uvicorn", "http_server", "node", "gunicorn_sync", "gunicorn_gthread")
OTHERS = ("nginx_http2", "nginx_tls", "hypercorn", "redis", "echo")


class Sites:
    """One proxy in front of all servers, each a service of its name; all tests here share it."""

    def __init__(self, proxy: Proxy, ports: dict[str, int], backends: dict[str, Backends]) -> None:
        self.proxy = proxy
        self._ports = ports
        self._backends = backends

    def port(self, server: str) -> int:
        """The public port of a server. Skips the test if it is not installed."""
        self._backends[server].version(server, "unused")
        return self._ports[server]

    def certificate(self, server: str) -> Path:
        return self._backends[server].certificate

    def now(self, server: str) -> str:
        """How the active backend calls itself: `VERSION GENERATION`."""
        active = self.proxy.active(server)
        return f"{active['version']} {active['id']}"

    def begin_swap(self, server: str) -> int:
        """Begin a swap to the version that is not active; returns its number."""
        version = "v2" if self.now(server).startswith("v1") else "v1"
        number: int = self.proxy.begin("swap", server, version=version)["id"]
        return number

    def swap(self, server: str) -> None:
        """A swap that forces nobody."""
        with Events(self.proxy) as events:
            number = self.begin_swap(server)
            result = events.wait(operation=number, type="result")["result"]
        assert (result["result"], result["forced"]) == ("swapped", 0)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    backends, ports, config = {}, {}, ""
    for server in SERVERS + OTHERS:
        folder: Path = tmp_path_factory.mktemp(server)
        backends[server] = Backends(folder)
        with contextlib.suppress(pytest.skip.Exception):
            versions = {name: backends[server].version(server, name) for name in ("v1", "v2")}
            ports[server] = free_port()
            config += service(ports[server], name=server, **versions)
    with Proxy(tmp_path_factory.mktemp("proxy"), config) as proxy:
        yield Sites(proxy, ports, backends)


@pytest.mark.parametrize("server", SERVERS)
def test_every_client_is_served_by_every_server_across_a_swap(tmp_path: Path, sites: Sites, server: str) -> None:
    url = f"http://127.0.0.1:{sites.port(server)}"

    def answered() -> float:
        return counter(sites.proxy, "proxy_http_requests_total", service=server, code="200")

    with contextlib.ExitStack() as stack:
        works = {name: Work(url, clients=2, requests=25, pause=0.04, prefix="") for name in CLIENTS}
        if server in CLOSING:  # h2load gives up when a connection ends while a request's time has come
            works["h2load"] = works["h2load"]._replace(pause=0)
        loops = {name: stack.enter_context(Loop(name, work, tmp_path)) for name, work in works.items()}
        eventually(lambda: answered() > 50, what="load")
        sites.swap(server)
        tallies = {name: loop.tally() for name, loop in loops.items()}
    assert not {name: tally.errors for name, tally in tallies.items() if tally.errors}
    for name, tally in tallies.items():
        assert tally.requests == works[name].total or name == "wrk"
        if server not in CLOSING:
            assert tally.connections in {None, works[name].clients}, name
    requests = sum(tally.requests for tally in tallies.values())
    # wrk stops amid requests that it does not count.
    assert requests <= answered() <= requests + works["wrk"].clients


def test_the_websockets_client_talks_to_the_version_that_is_active_when_it_connects(sites: Sites) -> None:
    need_module("websockets")
    from websockets.sync.client import connect

    url = f"ws://127.0.0.1:{sites.port('uvicorn')}/socket"
    for _ in range(2):
        with connect(url, proxy=None) as websocket:
            for text in ("one", "two", "x" * 70_000):
                websocket.send(text)
                assert websocket.recv(timeout=PATIENCE) == f"{sites.now('uvicorn')} {text}"
            assert websocket.ping().wait(PATIENCE)
        sites.swap("uvicorn")


def test_http_2_with_prior_knowledge_is_passed_through(tmp_path: Path, sites: Sites) -> None:
    """It holds its backend as any TCP connection does; new ones go to the new version."""
    url = f"http://127.0.0.1:{sites.port('nginx_http2')}"
    curl = [need("curl", package="curl"), "-sS", "--http2-prior-knowledge", "-w", " HTTP/%{http_version}", f"{url}/"]
    with Events(sites.proxy) as events:
        assert _output(curl) == "v1 1 HTTP/2"
        with Loop("h2c", Work(url, clients=4, requests=100, pause=0.01, prefix=""), tmp_path) as loop:
            eventually(lambda: sites.proxy.active("nginx_http2")["connections"] == 4, what="its connections are there")
            loop.hold()  # else a slow start of v2 lets it end before there is anything to drain
            number = sites.begin_swap("nginx_http2")
            events.wait(operation=number, phase="drain", state="begin")
            assert _output(curl) == "v2 2 HTTP/2"
            loop.go_on()
            tally = loop.tally()
        assert not tally.errors
        assert tally.requests == 400
        result = events.wait(operation=number, type="result")["result"]
        assert (result["drained"], result["forced"]) == (4, 0)


def test_http_2_by_upgrade_is_passed_through(sites: Sites) -> None:
    curl, port = need("curl", package="curl"), sites.port("hypercorn")
    done = _output([curl, "-sS", "-i", "--http2", "-w", " HTTP/%{http_version}", f"http://127.0.0.1:{port}/"])
    assert done.startswith("HTTP/1.1 101 ")
    assert done.endswith("v1 1 HTTP/2")


def test_an_upgrade_that_the_backend_ignores_leaves_the_connection_as_it_was(sites: Sites) -> None:
    """As `curl --http2` does with its first request."""
    curl, port = need("curl", package="curl"), sites.port("node")
    now, url = sites.now("node"), f"http://127.0.0.1:{port}/"
    done = _output([curl, "-sS", "--http2", "-w", " HTTP/%{http_version} %{num_connects}\n", url, url])
    assert done == f"{now} HTTP/1.1 1\n{now} HTTP/1.1 0\n"
    with Kept(port) as client:
        assert client.ask("GET", Connection="Upgrade", Upgrade="h2c").text == now
        sites.swap("node")
        assert client.ask("GET").text == sites.now("node") != now


def test_tls_is_passed_through_to_the_backend_that_has_the_certificate(sites: Sites) -> None:
    curl, port = need("curl", package="curl"), sites.port("nginx_tls")
    certificate = str(sites.certificate("nginx_tls"))
    command = [curl, "-sS", "--cacert", certificate, "-w", " HTTP/%{http_version}"]
    command += ["--resolve", f"localhost:{port}:127.0.0.1", f"https://localhost:{port}/"]
    assert _output([*command, "--http1.1"]) == "v1 1 HTTP/1.1"
    assert _output([*command, "--http2"]) == "v1 1 HTTP/2"
    context = ssl.create_default_context(cafile=certificate)
    with Events(sites.proxy) as events:
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as held,
        ):
            number = sites.begin_swap("nginx_tls")
            events.wait(operation=number, phase="switch", state="end")
            assert _output(command) == "v2 2 HTTP/2"
            held.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"v1 1" in _until(held, b"v1 1")
        assert events.wait(operation=number, type="result")["result"]["forced"] == 0


def test_redis_is_passed_through_whichever_way_its_clients_speak(sites: Sites) -> None:
    cli, port = need("redis-cli", package="redis-tools"), sites.port("redis")
    assert _output([cli, "-p", str(port), "SET", "name", "value"]) == "OK\n"
    assert _output([cli, "-p", str(port), "GET", "name"]) == "value\n"
    # Its inline commands begin as a request line does, and have bare line feeds if typed by hand.
    for request, wanted in ((b"PING\r\n", b"+PONG\r\n"), (b"STRLEN name\r\n", b":5\r\n"), (b"PING\n", b"+PONG\r\n")):
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(request)
            assert _until(client, wanted) == wanted


def test_bytes_that_are_not_http_are_passed_through_as_they_come(sites: Sites) -> None:
    """In turns with the backend's answers, and the end of the one side after the other's."""
    port, content = sites.port("echo"), bytes(range(256)) * 4
    for first in (b"\x00", b"\x16\x03\x01", b"*1\r\n", b"SSH-2.0-client\r\n", b"\r\n\xff", b"{}"):
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(first)
            assert _until(client, first) == first
            client.sendall(content)
            assert _until(client, content) == content
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""


def test_curl_uploads_with_100_continue_and_is_not_misled_by_the_length_of_a_body_that_does_not_come(
    tmp_path: Path, sites: Sites
) -> None:
    curl, url = need("curl", package="curl"), f"http://127.0.0.1:{sites.port('uvicorn')}"
    now = sites.now("uvicorn")
    (tmp_path / "body").write_bytes(b"x" * 2_000_000)
    put = [curl, "-sS", "-T", str(tmp_path / "body"), "-H", "Expect: 100-continue", "-v", f"{url}/upload"]
    done = subprocess.run(put, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert "< HTTP/1.1 100 Continue" in done.stderr
    assert re.fullmatch(rf"{now} 2000000 [0-9a-f]{{64}}", done.stdout)
    both = _output([curl, "-sS", "-I", f"{url}/", "--next", "-sS", "-w", " %{num_connects}", f"{url}/"])
    assert f"content-length: {len(now)}\n" in both.lower().replace("\r", "")
    assert both.endswith(f"{now} 0"), "on the same connection"


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _until(connection: socket.socket, wanted: bytes) -> bytes:
    """Read until what came ends with `wanted`, or the connection does."""
    got = b""
    while not got.endswith(wanted) and (data := connection.recv(65536)):
        got += data
    return got
