"""The load tests are run by hand, and rarely: these keep them from rotting in between."""

from __future__ import annotations

import re
import socketserver
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from tests.tools import missing, need

FOLDER = Path(__file__).parents[2] / "loadtests"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(FOLDER / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(report: str) -> list[list[str]]:
    """The cells of the first table's rows, titles included."""
    first = re.search(r"(?:^\|.*\n)+", report, re.MULTILINE)
    assert first, report
    lines = [line.strip("| ").split(" | ") for line in first[0].splitlines()]
    return [lines[0], *lines[2:]]


def need_all_for_the_benchmark() -> None:
    need("nginx", package="nginx-light")
    need("curl", package="curl")
    need("wrk", package="wrk")
    need("haproxy", package="haproxy")
    if not Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists():
        missing("nginx has no stream module: apt-get install libnginx-mod-stream")


def test_the_benchmark_measures_every_peer_under_every_load() -> None:
    need_all_for_the_benchmark()
    # Those with two processes are the same programs with another number.
    report = run("bench.py", "--quick", "--seconds=0.2", "--only=direct|, 1$")
    titles, *peers = rows(report)
    rates = [
        titles.index(each) for each in ("kept: requests/s", "varied: requests/s", "new connections/s", "bulk MiB/s")
    ]
    assert [cells[0] for cells in peers] == [
        "direct",
        "proxyctl TCP, 1",
        "HAProxy TCP, 1",
        "nginx stream, 1",
        "proxyctl HTTP, 1",
        "HAProxy HTTP, 1",
        "nginx HTTP, 1",
    ]
    for cells in peers:
        assert all(int(cells[each].replace(",", "")) > 0 for each in rates), cells
        assert cells[-1] == "0", cells
    assert re.findall(r"^\| (proxyctl HTTP, .*? to .*?) \|", report, re.MULTILINE) == [
        "proxyctl HTTP, 1 to HAProxy HTTP, 1",
        "proxyctl HTTP, 1 to nginx HTTP, 1",
        "proxyctl HTTP, 1 to proxyctl TCP, 1",
    ]


def test_a_benchmark_of_some_peers_under_one_load_has_nothing_else() -> None:
    need_all_for_the_benchmark()
    titles, *peers = rows(run("bench.py", "--quick", "--seconds=0.1", "--only=direct|^nginx http", "--loads=varied"))
    assert titles[1:] == ["varied: requests/s", "CPU µs/request", "p50 / p99 µs", "errors"]
    assert [cells[0] for cells in peers] == ["direct", "nginx HTTP, 1"]


def test_the_varied_load_gives_a_cache_of_parsed_heads_nothing_to_find() -> None:
    wrk = need("wrk", package="wrk")
    heads: list[bytes] = []

    class Backend(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = b""
            # wrk cuts its connections when it ends.
            with suppress(ConnectionError):
                while line := self.rfile.readline():
                    head += line
                    if line == b"\r\n":
                        heads.append(head)
                        head = b""
                        self.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Backend) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        url = "http://{}:{}/".format(*server.server_address)
        command = ["timeout", "--signal=INT", "0.3", wrk, "-t1", "-c2", "-d60s", "-s", str(FOLDER / "varied.lua"), url]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, timeout=60)
        server.shutdown()
        serving.join()
    assert len(heads) > 50
    assert len(set(heads)) == len(heads)
    assert {head.count(b": ") for head in heads} == {10}
    for part in (rb"^GET (\S+)", rb"Cookie: (.*)\r"):
        assert len({re.findall(part, head)[0] for head in heads}) == len(heads)


def test_the_memory_report_has_every_figure() -> None:
    report = run("memory.py", "--connections=50", "--status=1")
    figures = re.findall(r"^(\D+): +([\d.]+) (MiB|ms)", report.replace("1,000 idle", "idle"), re.MULTILINE)
    assert [name for name, _, _ in figures] == [
        "control process",
        "a worker, idle",
        "idle connections",
        "CPU of `proxyctl status`",
    ]


def test_the_memory_report_for_http_has_every_relay() -> None:
    need("nginx", package="nginx-light")
    need("haproxy", package="haproxy")
    _, *relays = rows(run("http_memory.py", "--connections=50"))
    assert [cells[0] for cells in relays] == ["proxyctl HTTP, 1", "HAProxy HTTP, 1", "nginx HTTP, 1"]
    for cells in relays:
        assert float(cells[1]) > 0, cells
