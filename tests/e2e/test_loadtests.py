"""The load tests are run by hand, and rarely: these keep them from rotting in between."""

from __future__ import annotations

import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
from contextlib import suppress
from itertools import product
from pathlib import Path

from tests.tools import missing, need

ROOT = Path(__file__).parents[2]
VARIED = ROOT / "loadtests" / "varied.lua"
SCENARIOS = "kept-32,bulk-down,fixed-30,swap"
RELAYS = ["direct", "naive TCP", "proxyctl TCP", "nginx stream", "proxyctl HTTP"]


def started(module: str, *arguments: str, mark: str = "") -> subprocess.Popen[str]:
    command, environment = [sys.executable, "-m", module, *arguments], os.environ | {"LOADTESTS_MARK": mark}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def marked(mark: str) -> list[int]:
    """Processes that were started with this mark, whoever their parents are by now."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"LOADTESTS_MARK={mark}\0".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def run(module: str, *arguments: str) -> tuple[str, str]:
    """What it printed to stdout and stderr."""
    with started(module, *arguments) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    return output, errors


def rows(report: str) -> list[list[str]]:
    """The cells of the first table's rows, titles included."""
    first = re.search(r"(?:^\|.*\n)+", report, re.MULTILINE)
    assert first, report
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in first[0].splitlines()]
    return [lines[0], *lines[2:]]


def need_all_for_the_load_tests() -> None:
    need("nginx", package="nginx-light")
    need("wrk", package="wrk")
    if not Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists():
        missing("nginx has no stream module: apt-get install libnginx-mod-stream")


def test_a_run_measures_relays_side_by_side_and_leaves_a_report_that_can_be_made_again(tmp_path: Path) -> None:
    need_all_for_the_load_tests()
    chosen = f"--relays=^({'|'.join(RELAYS)})$"
    out, folder = f"--out={tmp_path}", tmp_path
    printed, progress = run("loadtests", "--quick", "--seconds=0.2", f"--scenarios={SCENARIOS}", chosen, out)
    results = json.loads((folder / "results.json").read_text())
    assert results["left_out"] == [], progress
    samples = results["samples"]
    assert {name: sorted(by_relay) for name, by_relay in samples.items()} == {
        name: sorted(RELAYS) if name != "swap" else sorted(set(RELAYS) - {"direct", "naive TCP"})
        for name in SCENARIOS.split(",")
    }
    titles, *relays = rows(printed)
    assert titles[:2] == ["relay", "requests/s"]
    assert [cells[0] for cells in relays] == RELAYS
    for name in RELAYS:
        assert samples["kept-32"][name][0]["rate"] > 0, samples
    for scenario, name in product(samples, ("proxyctl TCP", "proxyctl HTTP")):
        assert samples[scenario][name][0]["errors"] == 0, (scenario, samples)
    assert "round 1 of 1, swap: proxyctl TCP" in progress
    assert sorted(path.name for path in (folder / "charts").iterdir()) == [
        f"{name}-tcp.svg"
        for name in ("bulk", "fixed", "kept", "swap")  # of HTTP there is nobody to compare with
    ]
    report = (folder / "RESULTS.md").read_text()
    (folder / "RESULTS.md").unlink()
    again, _ = run("loadtests", f"--report={folder}")
    assert again == printed
    assert (folder / "RESULTS.md").read_text() == report


def test_ctrl_c_writes_what_was_measured_and_ends_all_that_was_started(tmp_path: Path) -> None:
    need("nginx", package="nginx-light")
    need("wrk", package="wrk")
    asked = ["--scenarios=kept-1", "--relays=^(direct|naive TCP)$", "--seconds=1", "--rounds=1000"]
    with started("loadtests", *asked, f"--out={tmp_path}", mark=str(tmp_path)) as process:
        assert process.stderr is not None
        second = (line for line in process.stderr if "round 2" in line)
        assert next(second, ""), "it has ended before"
        assert len(marked(str(tmp_path))) > 3, "the servers and the naive relay"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    results = json.loads((tmp_path / "results.json").read_text())
    assert {len(samples) for samples in results["samples"]["kept-1"].values()} <= {1, 2}
    assert "interrupted" in results["about"]
    assert results["left_out"] == []
    assert marked(str(tmp_path)) == []


def test_everything_there_is_can_be_listed() -> None:
    printed, _ = run("loadtests", "--list")
    for name in (
        "kept-1",
        "kept-1024",
        "new",
        "bulk-up",
        "idle",
        "fixed-70",
        "websocket",
        "swap",
        *RELAYS,
        "HAProxy HTTP",
    ):
        assert re.search(rf"^  {name}( |$)", printed, re.MULTILINE), printed


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
        command = ["timeout", "--signal=INT", "0.3", wrk, "-t1", "-c2", "-d60s", "-s", str(VARIED), url]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, timeout=60)
        server.shutdown()
        serving.join()
    assert len(heads) > 50
    assert len(set(heads)) == len(heads)
    assert {head.count(b": ") for head in heads} == {10}
    for part in (rb"^GET (\S+)", rb"Cookie: (.*)\r"):
        assert len({re.findall(part, head)[0] for head in heads}) == len(heads)


def test_the_memory_report_has_every_figure() -> None:
    report, _ = run("loadtests.memory", "--connections=50", "--status=1")
    figures = re.findall(r"^(\D+): +([\d.]+) (MiB|ms)", report.replace("1,000 idle", "idle"), re.MULTILINE)
    assert [name for name, _, _ in figures] == [
        "control process",
        "a worker, idle",
        "idle connections",
        "CPU of `proxyctl status`",
    ]


def test_the_report_of_open_pages_has_them_quiet_and_busy() -> None:
    report, _ = run("loadtests.pages", "--pages=3", "--services=2", "--seconds=1")
    _, nobody, three = rows(report)
    assert (nobody[0], three[0]) == ("0", "3")
    assert all(float(figure.replace(",", "")) >= 0 for figure in (*nobody[1:], *three[1:]))


def test_the_memory_report_for_http_has_the_relays_that_were_asked_for() -> None:
    need("nginx", package="nginx-light")
    report, _ = run("loadtests.http_memory", "--connections=50", "--relays=proxyctl|nginx")
    _, *relays = rows(report)
    assert [cells[0] for cells in relays] == ["proxyctl HTTP", "nginx HTTP"]
    for cells in relays:
        assert float(cells[1]) > 0, cells
