"""What is not in anybody's way: it is compared closely enough to tell, with the same servers, and at nobody's cost."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loadtests import charts, report, steered, tables
from loadtests.backends import SMALL, backends
from loadtests.machine import ROOT, Cpu, family, listening
from loadtests.model import INHERIT, STEER
from loadtests.ratios import groups, ratio
from loadtests.results import read, write
from loadtests.run import plan
from loadtests.scenarios.cost import cpu_columns
from loadtests.targets import BESIDE_DIRECT, MISSED, TARGETS, evaluate
from proxy.kernel.procfs import socket_inodes
from tests.loadtests.made_up import EVERY_TCP, measured, relay, scenario
from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtests.model import Backends, Relay, Running
    from loadtests.results import Measured

DIRECT = relay("direct", name="direct")
STEERED = relay("proxyctl", name="proxyctl steer", datapath=STEER)
INHERITED = relay("proxyctl", name="proxyctl inherit", datapath=INHERIT)
CLOSE = [DIRECT, STEERED, INHERITED]


def in_turns(rates: dict[str, list[float]], name: str = "kept-32") -> Measured:
    """Of one round: a turn for each rate."""
    result = measured({name: {}}, [*CLOSE, *EVERY_TCP])
    for which, values in rates.items():
        for turn, value in enumerate(values, 1):
            result.add(name, which, 1, {"rate": value}, turn if len(values) > 1 else 0)
    return result


RATES = {
    "direct": [100.0, 102.0, 98.0, 100.0],
    "proxyctl steer": [99.0, 102.0, 97.0, 99.0],
    "proxyctl TCP": [60.0],
    "HAProxy TCP": [50.0],
}


def test_relays_without_a_hop_are_measured_in_turns_there_and_back_beside_each_other() -> None:
    steps = plan([*CLOSE, *EVERY_TCP], [scenario("kept-32", turns=4)], 1, seed=3)
    assert len(steps) == 3 * 4 + len(EVERY_TCP)
    first = next(place for place, step in enumerate(steps) if step.turn)
    turns = steps[first : first + 12]
    assert [step.turn for step in turns] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    names = [step.relay.name for step in turns]
    assert names[:6] == names[5::-1] == names[6:]
    assert {step.relay.name for step in steps if not step.turn} == {each.name for each in EVERY_TCP}


def test_one_without_a_hop_alone_is_measured_like_all_others() -> None:
    steps = plan([DIRECT, *EVERY_TCP], [scenario("kept-32", turns=4)], 1, seed=3)
    assert len(steps) == 1 + len(EVERY_TCP)
    assert {step.turn for step in steps} == {0}


def test_what_tells_nothing_without_a_hop_is_not_measured() -> None:
    steps = plan(CLOSE, [scenario(name) for name in ("varied", "fixed-70", "new")], 1, seed=1)
    found = {(step.scenario.name, step.relay.name) for step in steps}
    assert found == {
        ("varied", "direct"),
        *(("fixed-70", name) for name in ("direct", "proxyctl steer")),
        *(("new", each.name) for each in CLOSE),
    }


def test_turns_count_all_alike_and_a_round_is_what_is_typical_of_its_turns() -> None:
    one = measured({"new": {}})
    for turn, rate in enumerate((1.0, 5.0, 3.0), 1):
        one.add("new", "direct", 1, {"rate": rate, "errors": 1.0}, turn)
    one.add("new", "direct", 2, {"rate": 9.0, "errors": 0.0}, 1)
    assert one.typical("new", "direct", "rate") == 4.0
    assert one.typical("new", "direct", "errors") == 3.0
    assert one.by_round("new", "direct", "rate") == {1: 3.0, 2: 9.0}
    assert one.by_round("new", "direct", "errors") == {1: 3.0, 2: 0.0}


def test_a_ratio_says_how_exact_it_is_where_both_were_measured_in_turns() -> None:
    one = in_turns(RATES)
    found = ratio(one, "kept-32", "rate", "proxyctl steer", "direct")
    assert found is not None
    assert found.median == pytest.approx(0.99)
    assert found.error == pytest.approx(0.007, abs=0.001)
    other = ratio(one, "kept-32", "rate", "proxyctl steer", "HAProxy TCP")
    assert other is not None
    assert other.error is None


def test_a_machine_that_becomes_slower_between_two_turns_does_not_change_a_ratio() -> None:
    one = in_turns({"direct": [100.0, 100.0, 100.0, 50.0], "proxyctl steer": [99.0, 99.0, 49.0, 49.5]})
    found = ratio(one, "kept-32", "rate", "proxyctl steer", "direct")
    assert found is not None
    assert found.median == pytest.approx(0.99)


def test_it_is_compared_with_direct_and_with_our_own_relay_and_nobody_is_compared_with_it() -> None:
    found = {group.ours.name: [peer.name for peer in group.peers] for group in groups([*CLOSE, *EVERY_TCP])}
    proxies = ["HAProxy TCP", "nginx TCP", "Envoy TCP"]
    assert found == {
        "proxyctl steer": ["direct", "proxyctl TCP", *proxies],
        "proxyctl inherit": ["direct", "proxyctl TCP", *proxies],
        "proxyctl TCP": [*proxies, "naive TCP"],
    }


def test_targets_mean_the_data_path_that_they_say() -> None:
    one = in_turns(RATES)
    verdicts = {each.target.goal: each for each in evaluate(one) if each.value is not None}
    assert verdicts[9].value == pytest.approx(0.99)
    assert verdicts[10].value == pytest.approx(99 / 50)
    rows = tables.targets(one, [verdicts[9], verdicts[10]]).splitlines()[2:]
    assert [row.split("|")[3].strip() for row in rows] == [STEER, STEER]
    assert "requests/s ≥ 0.98 x direct" in rows[0]
    assert "0.99 ± 0.01" in rows[0]
    assert "±" not in rows[1]


def test_steering_is_to_be_as_good_as_direct_in_everything_that_is_shown_beside_it() -> None:
    assert [each.scenario for each in TARGETS if each.goal == 9] == list(BESIDE_DIRECT)
    one = in_turns(RATES | {"proxyctl steer": [97.0] * 4}, "bulk-up")
    (verdict,) = [each for each in evaluate(one) if each.value is not None and each.target.goal == 9]
    assert verdict.status == MISSED


def test_a_table_shows_all_data_paths_and_peers_as_a_part_of_direct() -> None:
    head, _, row = tables.without_a_hop(in_turns(RATES)).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")][1:6] == [
        "direct",
        "proxyctl steer",
        "proxyctl inherit",
        "proxyctl TCP",
        "HAProxy TCP",
    ]
    assert [cell.strip() for cell in row.strip("|").split("|")][:6] == [
        "kept-32: requests/s",
        "100",
        "99 (0.99)",
        "-",
        "60 (0.60)",
        "50 (0.50)",
    ]
    assert tables.without_a_hop(measured({"kept-32": {"proxyctl TCP": [{"rate": 1.0}]}})) == ""


def test_a_data_path_has_a_chart_of_its_own_and_is_not_in_the_relays() -> None:
    drawn = charts.draw(in_turns(RATES))
    assert list(drawn) == ["steer-tcp.svg", "kept-tcp.svg"]
    for part in (">direct<", ">proxyctl TCP<", ">HAProxy<", "proxyctl steer to direct"):
        assert part in drawn["steer-tcp.svg"].svg
    assert ">direct<" not in drawn["kept-tcp.svg"].svg


def test_the_report_says_how_what_has_no_hop_was_measured(tmp_path: Path) -> None:
    report.save(tmp_path, in_turns(RATES))
    text = (tmp_path / "RESULTS.md").read_text()
    for part in ("## Without a hop", "the same server", "charts/steer-tcp.svg", "### proxyctl steer", "±"):
        assert part in text
    assert "Without a hop:" in report.terminal(in_turns(RATES))


def test_the_data_path_is_kept_with_the_results(tmp_path: Path) -> None:
    one = in_turns(RATES)
    write(tmp_path / "results.json", one)
    again = read(tmp_path / "results.json")
    assert [each.datapath for each in again.relays] == [each.datapath for each in one.relays]
    assert evaluate(again) == evaluate(one)


def test_no_cpu_time_is_a_result_of_what_may_idle() -> None:
    assert cpu_columns(Cpu(0.0, 0.0), 10, may_idle=True) == {"user": 0.0, "system": 0.0, "cpu": 0.0}
    assert cpu_columns(Cpu(0.0, 0.0), 0, may_idle=True) == {}


def test_a_server_takes_a_socket_that_listens_already_and_says_when_it_has_it(tmp_path: Path) -> None:
    told = tmp_path / "notify"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
    ):
        notified.bind(str(told))
        notified.settimeout(20)
        listener.set_inheritable(True)
        command = [sys.executable, "-m", "loadtests.scenarios.bulk_server", f"fd:{listener.fileno()}"]
        environment = os.environ | {"NOTIFY_SOCKET": str(told)}
        with subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[listener.fileno()]) as server:
            try:
                assert notified.recv(100) == b"READY=1"
                assert len(fetch(listener.getsockname()[1], "/bytes/1000")) == 1000
            finally:
                server.kill()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Backends]:
    need("nginx", package="nginx-light")
    (tmp_path / "backends").mkdir()
    with backends(tmp_path / "backends") as ports:
        yield ports


@contextmanager
def started(one: Relay, folder: Path, servers: Backends) -> Iterator[Running]:
    if one.missing:
        missing(one.missing)
    (folder / "relay").mkdir()
    for each in (folder, folder / "relay"):
        each.chmod(0o755)
    with one.start(folder / "relay", servers) as running:
        yield running


def fetch(port: int, path: str = "/small") -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("one", [steered.steer(), steered.inherit()], ids=lambda one: one.name)
def test_connections_are_past_the_processes_that_are_measured(one: Relay, tmp_path: Path, servers: Backends) -> None:
    with started(one, tmp_path, servers) as running:
        port = running.ports[servers.web]
        assert fetch(port) == SMALL
        assert running.workers() < running.pids() < family(os.getpid())
        assert len(running.pids()) == 2, "control and its worker, and no backend"
        assert running.swap
        running.swap()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /small HTTP/1.1\r\nHost: test\r\n\r\n")
            assert client.recv(1000)
            held = {inode for pid in running.pids() for inode in socket_inodes(pid) or ()}
            assert listening([port]) <= held, "what is underneath"
            assert servers_end(client) not in held


def servers_end(client: socket.socket) -> int:
    """The inode of the other end's socket, in /proc/net/tcp (proc(5))."""
    port = client.getsockname()[1]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return next(int(row[9]) for row in rows if row[2].endswith(f":{port:04X}"))


@pytest.mark.parametrize("datapath", [STEER, INHERIT])
def test_what_is_started_is_the_server_that_direct_is_measured_with(
    datapath: str, tmp_path: Path, servers: Backends
) -> None:
    (tmp_path / "relay").mkdir()
    steered.services(tmp_path / "relay", datapath, {"web": 8080})
    direct, ours = ((tmp_path / name).read_text() for name in ("backends/nginx.conf", "relay/nginx.template"))
    listens = {STEER: "listen 127.0.0.1:@port@", INHERIT: "listen 127.0.0.1:8080 backlog=4096; listen 127.0.0.1:@port@"}
    expected = direct.replace(f"{tmp_path}/backends/www", f"{tmp_path}/relay/www")
    expected = expected.replace(f"{tmp_path}/backends", "@folder@")
    assert ours == expected.replace(f"listen 127.0.0.1:{servers.web}", listens[datapath])
