"""Work that was under way when a swap came: it ends where it began."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Self

from tests.e2e import configs
from tests.e2e.harness import Events, Held, Proxy, eventually, fetch, free_port, is_alive
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path

APP = """
import asyncio, os, pathlib

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        while not pathlib.Path("GATE").exists():
            await asyncio.sleep(0.05)
    body = os.environ["PROXY_VERSION"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


def test_a_request_that_outlasts_the_switch_gets_the_answer_of_the_backend_that_took_it(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "app.py").write_text(APP.replace("GATE", str(gate)))
    uvicorn = configs.command(
        sys.executable, "-m", "uvicorn", "app:app", "--app-dir", str(tmp_path), "--port", "{port}", "--no-access-log"
    )
    port = free_port()
    config = configs.service(port, health='type = "http"\ninterval = "100ms"', v1=uvicorn, v2=uvicorn)
    answers = []
    with Proxy(tmp_path, config) as proxy:
        (old,) = proxy.pids()
        slow = threading.Thread(target=lambda: answers.append(fetch(port, "/slow")))
        slow.start()
        eventually(lambda: proxy.active()["connections"] == 1, what="the slow request is with its backend")
        with Events(proxy) as events:
            proxy.begin("swap", version="v2")
            events.wait(phase="switch", state="end")
            assert [fetch(port) for _ in range(20)] == ["v2"] * 20
            assert is_alive(old)
            assert not answers
            gate.touch()
            result = events.wait(type="result")["result"]
        slow.join()
        assert answers == ["v1"]
        assert (result["result"], result["drained"], result["forced"]) == ("swapped", 1, 0)
        assert not is_alive(old)


def test_a_held_redis_connection_keeps_its_server_and_new_ones_get_the_new_one(tmp_path: Path) -> None:
    need("redis-cli", package="redis-tools")
    port = free_port()
    config = configs.service(port, drain='deadline = "60s"', v1=configs.redis(), v2=configs.redis())
    with Proxy(tmp_path, config) as proxy, Cli(port) as held, Events(proxy) as events:
        assert held.ask("SET who v1") == "OK"
        for version in ("v2", "v1", "v2"):
            number = proxy.begin("swap", version=version)["id"]
            events.wait(operation=number, phase="switch", state="end")
            assert held.ask("GET who") == "v1"
            with Cli(port) as new:
                assert new.ask("GET who") == ""
        assert proxy.generation(1)["drain"]["remaining"] == 1  # type: ignore[index]
        held.close()
        result = events.wait(type="result", operation=1)["result"]
        assert (result["drained"], result["forced"]) == (1, 0)


def test_redis_benchmark_runs_through_swaps_with_no_error(tmp_path: Path) -> None:
    program = need("redis-benchmark", package="redis-tools")
    port = free_port()
    config = "workers = 2\n" + configs.service(port, drain='deadline = "60s"', v1=configs.redis(), v2=configs.redis())
    # Without keep-alive (-k 0), each request is a connection of its own: they meet every backend.
    commands = [[program, "-p", str(port), "-c", "16", "-n", count, "-k", keep, "-t", "set,get", "--csv"]
                for keep, count in (("0", "3000"), ("1", "20000"))]  # fmt: skip
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events:
        running = [
            subprocess.Popen(each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for each in commands
        ]
        swaps = 0
        while any(process.poll() is None for process in running):
            number = proxy.begin("swap", version=("v2", "v1")[swaps % 2])["id"]
            events.wait(operation=number, phase="switch", state="end")
            swaps += 1
        for process in running:
            out, err = process.communicate()
            assert process.returncode == 0, err
            assert "rror" not in out + err
            assert out.count('"SET"') == out.count('"GET"') == 1
        assert swaps >= 2
        assert proxy.metrics().get("proxy_drain_forced_connections_total", service="web") == 0


def test_a_download_and_an_upload_that_are_under_way_are_whole_after_a_swap(tmp_path: Path) -> None:
    """Nothing but socat on both sides: bytes and half-closes, and the upload's answer comes after its end."""
    socat, curl = need("socat", package="socat"), need("curl", package="curl")
    content = os.urandom(8 << 20)
    (tmp_path / "content").write_bytes(content)
    echo = configs.command(socat, "TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=64", "SYSTEM:cat")
    files = configs.command(sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "-d", str(tmp_path), "{port}")
    echo_port, web_port = free_port(), free_port()
    config = configs.service(echo_port, name="echo", v1=echo, v2=echo)
    config += configs.service(web_port, v1=files, v2=files)
    with Proxy(tmp_path, config) as proxy:
        download = subprocess.Popen(
            [curl, "-sS", "--limit-rate", "2M", "-o", "got", f"http://127.0.0.1:{web_port}/content"],
            cwd=tmp_path, stderr=subprocess.PIPE,
        )  # fmt: skip
        upload = subprocess.Popen(
            [socat, "-t30", "STDIO", f"TCP:127.0.0.1:{echo_port}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("web", "echo"):
            eventually(lambda name=name: proxy.active(name)["connections"] == 1, what=f"a connection of {name}")
            assert proxy.begin("swap", name, version="v2")["to"] == "v2"
        echoed, _ = upload.communicate(content, timeout=30)
        assert echoed == content
        assert download.wait(30) == 0, download.stderr and download.stderr.read()
        download.stderr and download.stderr.close()
        assert (tmp_path / "got").read_bytes() == content
        eventually(lambda: proxy.service("echo")["state"] == proxy.service()["state"] == "serving", what="drained")


def test_clients_may_come_and_go_by_half_closing(tmp_path: Path) -> None:
    """A client that has sent its request and FIN still gets its answer, also when it waited for a backend."""
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy:
        assert proxy.ask("POST", "/v1/services/web/pause")[0] == 200
        with Held(port) as client:
            client.send()
            client.socket.shutdown(1)
            assert proxy.ask("POST", "/v1/services/web/resume")[0] == 200
            assert client.answer().startswith("v1 ")
            assert client.rest() == b""


class Cli:
    """An interactive redis-cli."""

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            ["redis-cli", "-p", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, command: str) -> str:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate()
