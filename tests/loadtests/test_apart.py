"""A client on a CPU of its own: it really is alone there, and nobody is left confined when the load is over."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from loadtests.affinity import Division, apart, division
from loadtests.machine import family
from loadtests.model import HTTP, INHERIT, STEER, TCP, Running
from loadtests.ratios import OURS
from loadtests.run import plan
from loadtests.scenarios import apart as scenario
from loadtests.scenarios import scenarios
from loadtests.targets import APART, KEPT, TARGETS
from tests.loadtests.made_up import BACKENDS, EVERY_HTTP, EVERY_TCP, relay
from tests.tools import missing, need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtests.model import Backends

USABLE = os.sched_getaffinity(0)

# One more thread, and one more process, for each line on stdin; says so on stdout.
GROWS = """
import subprocess, sys, threading, time
for line in sys.stdin:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    subprocess.Popen(["sleep", "600"])
    print("grown", flush=True)
"""


class Server:
    """A process that grows: it begins with two threads and one child."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.grow()

    def pids(self) -> set[int]:
        return family(self.process.pid)

    def grow(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        print("more", file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "grown\n"

    def allowed(self) -> dict[int, set[int]]:
        """Where each of its threads, and its children's, may run."""
        return threads(self.pids())


def threads(pids: set[int]) -> dict[int, set[int]]:
    found = [int(thread) for pid in pids for thread in os.listdir(f"/proc/{pid}/task")]
    return {thread: os.sched_getaffinity(thread) for thread in found}


@pytest.fixture
def server() -> Iterator[Server]:
    command = [sys.executable, "-c", GROWS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        grown = Server(process)
        yield grown
        for pid in grown.pids() - {process.pid}:
            os.kill(pid, 9)
        process.kill()


@pytest.fixture
def cpus() -> Division:
    return division(USABLE) or missing("there is only one CPU")


@contextmanager
def confined(allowed: frozenset[int]) -> Iterator[None]:
    """This thread."""
    os.sched_setaffinity(0, allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, USABLE)


def test_the_client_has_one_cpu_and_the_servers_have_all_others() -> None:
    assert division({0, 1}) == ({1}, {0})
    assert division({7, 2, 4}) == ({7}, {2, 4})
    assert division({3}) is None


def test_every_thread_of_the_servers_is_away_from_the_client(server: Server, cpus: Division) -> None:
    with apart(server.pids):
        assert len(server.allowed()) == 3
        assert all(allowed == cpus.servers for allowed in server.allowed().values())
        assert os.sched_getaffinity(0) == cpus.client
        started = subprocess.run(
            [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"], capture_output=True, check=True
        )
        assert {int(number) for number in started.stdout.split()} == cpus.client
    assert os.sched_getaffinity(0) == USABLE
    assert all(allowed == USABLE for allowed in server.allowed().values())


def test_what_servers_start_under_load_stays_with_them_and_is_not_left_there(server: Server, cpus: Division) -> None:
    with apart(server.pids):
        server.grow()
        assert len(server.allowed()) == 5
        assert all(allowed == cpus.servers for allowed in server.allowed().values())
    assert all(allowed == USABLE for allowed in server.allowed().values())


def test_what_was_confined_before_is_so_again_afterwards(server: Server, cpus: Division) -> None:
    for where in (cpus.client, cpus.servers):
        os.sched_setaffinity(server.process.pid, where)
        with apart(server.pids):
            assert os.sched_getaffinity(server.process.pid) == cpus.servers
        assert os.sched_getaffinity(server.process.pid) == where


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nobody_stays_confined_after_ctrl_c_or_a_failure(
    error: type[BaseException], server: Server, cpus: Division
) -> None:
    def fails() -> None:
        with apart(server.pids):
            assert os.sched_getaffinity(server.process.pid) == cpus.servers
            raise error

    with pytest.raises(error):
        fails()
    assert os.sched_getaffinity(0) == USABLE
    assert all(allowed == USABLE for allowed in server.allowed().values())


@pytest.mark.usefixtures("cpus")
def test_ctrl_c_while_they_are_moved_moves_them_back(server: Server) -> None:
    looks = 0

    def interrupted() -> set[int]:
        nonlocal looks
        looks += 1
        if looks == 3:  # where they may run; to be moved; whether all are
            raise KeyboardInterrupt
        return server.pids()

    with pytest.raises(KeyboardInterrupt), apart(interrupted):
        pytest.fail("they were not all moved")
    assert looks > 3
    assert all(allowed == USABLE for allowed in server.allowed().values())


@pytest.mark.usefixtures("cpus")
def test_a_server_that_has_ended_does_no_harm(server: Server) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    with apart(lambda: {server.process.pid, ended.pid}) as cpus:
        assert os.sched_getaffinity(server.process.pid) == cpus.servers
    assert os.sched_getaffinity(server.process.pid) == USABLE


def test_with_one_cpu_it_is_not_measured_and_says_why() -> None:
    with confined(frozenset({max(USABLE)})):
        assert "only one" in scenario.apart(32).missing
        with pytest.raises(RuntimeError, match="only one"), apart(set):
            pass


def test_relays_of_tcp_with_one_worker_are_measured_and_those_without_a_hop_in_turns() -> None:
    close = [relay("direct", name="direct"), relay(OURS, name=STEER, datapath=STEER)]
    close += [relay(OURS, name=INHERIT, datapath=INHERIT)]
    every = [*close, *EVERY_TCP, *EVERY_HTTP, relay("nginx", TCP, 2), relay("nginx", HTTP, 2)]
    meant = [each for each in scenarios(lambda: 1.0) if each.name in APART]
    assert [each.name for each in meant] == list(APART)
    steps = plan(every, meant, 3, seed=1)
    names = {each.name for each in close} | {each.name for each in EVERY_TCP if each.product != "naive"}
    assert {step.relay.name for step in steps} == names
    assert {step.relay.name for step in steps if step.turn} == {each.name for each in close}


def test_steering_is_judged_with_a_client_on_the_same_cpus_and_with_one_apart() -> None:
    assert {each.scenario for each in TARGETS if each.goal == 10} == {*KEPT, *APART}
    assert {each.scenario for each in TARGETS if each.goal == 9} > {*KEPT, *APART}


def test_nobody_is_measured_whose_backend_cannot_be_found() -> None:
    nobody = Running({1: 1}, frozenset, frozenset)
    with pytest.raises(RuntimeError, match="listens on port 1"):
        scenario.apart(1).run(nobody, BACKENDS, 0.1)


@pytest.mark.parametrize("relayed", [TCP], indirect=True)
def test_a_load_keeps_relay_and_backend_away_from_the_client_as_long_as_it_lasts(
    relayed: tuple[Running, Backends], cpus: Division
) -> None:
    need("wrk", package="wrk")
    running, backends = relayed
    everyone = scenario.servers(running, backends.web)
    seen: list[dict[int, set[int]]] = []

    def asked() -> frozenset[int]:
        """By the meter, before the load and after it, too."""
        if os.sched_getaffinity(0) == cpus.client:
            seen.append(threads(everyone()))
        return running.pids()

    sample = scenario.apart(2).run(replace(running, pids=asked), backends, 0.5)
    assert set(sample) >= {"rate", "cpu", "p50", "p99"}
    assert sample["rate"] > 0
    assert sample["errors"] == 0
    web = {pid for pid in everyone() if "nginx" in name(pid)}
    assert len(web) == 2, "master and worker"
    assert len(seen) >= 2
    for each in seen:
        assert web | running.pids() <= each.keys()
        assert all(allowed == cpus.servers for allowed in each.values())
    assert all(allowed == USABLE for allowed in threads(everyone()).values())
    assert os.sched_getaffinity(0) == USABLE


def name(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="ascii") as file:
        return file.read()
