"""A run that goes on: in which order it measures, and what it does when a relay, or whoever watches, gives up."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loadtests.fleet import Fleet
from loadtests.model import HTTP, TCP, Backends, Relay, Running, Sample, Scenario
from loadtests.options import UsageError, choose_relays, choose_scenarios, parse
from loadtests.progress import Progress
from loadtests.results import Measured
from loadtests.run import Capacity, NotMeasuredError, Run, TookTooLongError, in_short, plan, time_limit
from tests.loadtests.made_up import BACKENDS, EVERY_HTTP, EVERY_TCP, measured, relay, scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
NAMES = {each.name for each in EVERY_TCP}


class Watched:
    """Relays that tell when they start and end, in `told`; those in `broken` do not start."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.broken: set[str] = set()

    def relay(self, product: str, *, can_swap: bool = False) -> Relay:
        @contextmanager
        def start(folder: Path, _backends: Backends) -> Iterator[Running]:
            assert folder.is_dir()
            assert not list(folder.iterdir())
            if product in self.broken:
                raise RuntimeError(f"{product} does not serve")
            self.told.append(f"{product} starts")
            try:
                yield Running({1: 1}, frozenset, frozenset, (lambda: None) if can_swap else None)
            finally:
                self.told.append(f"{product} ends")

        return relay(product, start=start)


def run(folder: Path, relays: list[Relay], scenarios: list[Scenario], rounds: int = 1) -> tuple[Measured, str]:
    """What a run of these measures, and what it says meanwhile."""
    result, output = Measured(relays, scenarios), io.StringIO()
    steps = plan(relays, scenarios, rounds, seed=1)
    with Fleet(folder, BACKENDS) as fleet:
        for each in relays:
            fleet.start(each)
        Run(fleet, result, 0.1, Progress(steps, 0.1, output)).go(steps)
    return result, output.getvalue()


def test_each_scenario_measures_all_relays_one_after_the_other_shuffled_anew_each_time() -> None:
    steps = plan(EVERY_TCP, [scenario("kept-1"), scenario("new")], 3, seed=5)
    assert len(steps) == 3 * 2 * len(EVERY_TCP)
    blocks = [steps[start : start + len(EVERY_TCP)] for start in range(0, len(steps), len(EVERY_TCP))]
    assert [{(step.round, step.scenario.name) for step in block} for block in blocks] == [
        {(number, name)} for number in (1, 2, 3) for name in ("kept-1", "new")
    ]
    assert all({step.relay.name for step in block} == NAMES for block in blocks)
    assert len({tuple(step.relay.name for step in block) for block in blocks}) > 1


def test_the_same_seed_gives_the_same_order() -> None:
    def order(seed: int) -> list[str]:
        return [step.relay.name for step in plan(EVERY_TCP, [scenario("new")], 5, seed)]

    assert order(1) == order(1) != order(2)


def test_a_scenario_is_measured_in_no_more_rounds_than_it_is_worth() -> None:
    steps = plan(EVERY_TCP[:1], [scenario("idle", rounds=1), scenario("new")], 3, seed=1)
    assert [(step.round, step.scenario.name) for step in steps] == [(1, "idle"), (1, "new"), (2, "new"), (3, "new")]


def test_a_scenario_of_one_protocol_leaves_relays_of_the_other_alone() -> None:
    steps = plan([*EVERY_TCP, *EVERY_HTTP], [scenario("varied", protocols=(HTTP,))], 1, seed=1)
    assert {step.relay.name for step in steps} == {each.name for each in EVERY_HTTP}


def test_two_workers_are_measured_where_it_tells_something() -> None:
    every = [scenario(name) for name in ("kept-1", "kept-32", "kept-256", "new", "idle")]
    steps = plan([relay("nginx", TCP, 2)], every, 1, seed=1)
    assert [step.scenario.name for step in steps] == ["kept-32", "kept-256", "new"]


def test_samples_land_by_scenario_relay_and_round(tmp_path: Path) -> None:
    result, output = run(tmp_path, EVERY_TCP, [scenario("new")], rounds=2)
    assert {name: [each["round"] for each in samples] for name, samples in result.results.samples["new"].items()} == {
        name: [1.0, 2.0] for name in NAMES
    }
    assert output.count("\n") == 2 * len(EVERY_TCP)


def test_a_relay_that_fails_is_left_out_for_that_round_and_started_anew(tmp_path: Path) -> None:
    watched, asked = Watched(), []

    def fails_once(*_: object) -> Sample:
        asked.append(1)
        if len(asked) == 1:
            raise OSError("connection\nrefused")
        return {"rate": 1.0}

    result, output = run(tmp_path, [watched.relay("nginx")], [scenario("new", fails_once)], rounds=2)
    assert result.results.left_out == ["new: nginx TCP, round 1: OSError: connection refused"]
    assert result.by_round("new", "nginx TCP", "rate") == {2: 1.0}
    assert watched.told == ["nginx starts", "nginx ends"] * 2
    assert "left out: new: nginx TCP, round 1" in output


def test_a_relay_that_does_not_start_again_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    watched = Watched()

    def fails(*_: object) -> Sample:
        watched.broken.add("nginx")
        raise ValueError

    scenarios = [scenario("new", fails, protocols=(TCP,)), scenario("kept-1")]
    relays = [watched.relay("nginx")]
    result, _ = run(tmp_path, relays, scenarios, rounds=2)
    assert result.results.samples == {}
    assert result.results.left_out == [
        "new: nginx TCP, round 1: ValueError",
        "nginx TCP, from here on: does not start again: RuntimeError: nginx does not serve",
    ]


def test_a_fresh_relay_is_started_for_each_measurement_and_ends_with_it(tmp_path: Path) -> None:
    watched = Watched()

    def notes(*_: object) -> Sample:
        watched.told.append("measured")
        return {"rate": 1.0}

    run(tmp_path, [watched.relay("nginx")], [scenario("idle", notes, is_fresh=True)], rounds=2)
    assert watched.told == ["nginx starts", *["nginx starts", "measured", "nginx ends"] * 2, "nginx ends"]


def test_a_fresh_relay_that_fails_leaves_the_other_one_up(tmp_path: Path) -> None:
    watched = Watched()

    def fails(*_: object) -> Sample:
        raise RuntimeError("no")

    result, _ = run(tmp_path, [watched.relay("nginx")], [scenario("idle", fails, is_fresh=True)])
    assert watched.told == ["nginx starts", "nginx starts", "nginx ends", "nginx ends"]
    assert result.results.left_out == ["idle: nginx TCP, round 1: RuntimeError: no"]


def test_a_swap_is_measured_of_those_that_have_one(tmp_path: Path) -> None:
    watched = Watched()
    relays = [watched.relay("nginx", can_swap=True), watched.relay("naive")]
    result, _ = run(tmp_path, relays, [scenario("swap", needs_swap=True)])
    assert list(result.results.samples["swap"]) == ["nginx TCP"]
    assert result.results.left_out == []


def test_whoever_interrupts_keeps_what_was_measured_and_all_relays_end(tmp_path: Path) -> None:
    watched, result = Watched(), Measured([], [])
    relays = [watched.relay("nginx"), watched.relay("naive")]
    count = iter(range(3))

    def is_interrupted(*_: object) -> Sample:
        if next(count) == 1:
            raise KeyboardInterrupt
        return {"rate": 1.0}

    steps = plan(relays, [scenario("new", is_interrupted)], 3, seed=1)

    def go() -> None:
        with Fleet(tmp_path, BACKENDS) as fleet:
            for each in relays:
                fleet.start(each)
            Run(fleet, result, 0.1, Progress(steps, 0.1, io.StringIO())).go(steps)

    with pytest.raises(KeyboardInterrupt):
        go()
    assert sum(len(samples) for samples in result.results.samples["new"].values()) == 1
    assert sorted(watched.told) == ["naive ends", "naive starts", "nginx ends", "nginx starts"]


def test_a_program_that_nobody_knows_of_does_not_outlive_the_run() -> None:
    # In a process of its own: other tests of this one have children that are to stay.
    code = (
        "import subprocess\nfrom loadtests.fleet import nothing_left\n"
        "with nothing_left():\n    child = subprocess.Popen(['sleep', '60'])\n"
        "print(child.wait(10))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(-signal.SIGKILL)


def test_capacity_is_the_slowest_peers_and_stays_what_it_was() -> None:
    rates = {"proxyctl TCP": 1.0, "naive TCP": 2.0, "HAProxy TCP": 50.0, "nginx HTTP": 40.0, "Envoy TCP": 60.0}
    capacity = Capacity()
    capacity.measured = measured({"kept-32": {name: [{"rate": rate}] for name, rate in rates.items()}})
    assert capacity() == 40.0
    capacity.measured.add("kept-32", "nginx HTTP", 2, {"rate": 2.0})
    assert capacity() == 40.0


def test_what_builds_on_a_capacity_that_was_not_measured_is_left_out_once(tmp_path: Path) -> None:
    capacity = Capacity()
    with pytest.raises(NotMeasuredError):
        capacity()
    fixed = scenario("fixed-70", lambda *_: {"rate": 0.7 * capacity()})
    watched = Watched()
    result, _ = run(tmp_path, [watched.relay("nginx"), watched.relay("naive")], [fixed], rounds=2)
    assert result.results.left_out == [
        "fixed-70: needs kept-32 of at least one of HAProxy, nginx, Envoy in the same run"
    ]
    assert watched.told.count("nginx starts") == 1


def test_a_measurement_that_hangs_is_given_up() -> None:
    with pytest.raises(TookTooLongError, match=r"0\.05 s"), time_limit(0.05):
        time.sleep(60)
    with time_limit(0.05):
        pass
    time.sleep(0.1)  # nothing is left that would go off


def test_errors_are_told_on_one_line_however_long_they_are() -> None:
    assert in_short(RuntimeError("a\n  b")) == "RuntimeError: a b"
    assert in_short(ValueError()) == "ValueError"
    assert len(in_short(RuntimeError("x" * 5000))) < 400


def test_progress_learns_how_long_each_scenario_takes() -> None:
    now = [100.0]
    steps = plan([relay("nginx")], [scenario("new"), scenario("idle")], 2, seed=1)
    output = io.StringIO()
    progress = Progress(steps, 3.0, output, lambda: now[0])
    for step in steps:
        progress.begin(step)
        now[0] += 50 if step.scenario.name == "idle" else 10
        progress.end(step)
    assert output.getvalue().splitlines() == [
        "[0:00 of about 0:16] round 1 of 2, new: nginx TCP",
        "[0:10 of about 0:28] round 1 of 2, idle: nginx TCP",
        "[1:00 of about 2:00] round 2 of 2, new: nginx TCP",
        "[1:10 of about 2:00] round 2 of 2, idle: nginx TCP",
    ]


def test_relays_and_scenarios_are_chosen_by_name() -> None:
    every = [*EVERY_TCP, *EVERY_HTTP, relay("nginx", TCP, 2)]
    assert [each.name for each in choose_relays(every, parse(["--relays=^nginx"]))] == [
        "nginx TCP",
        "nginx HTTP",
        "nginx TCP, 2",
    ]
    assert [each.name for each in choose_relays(every, parse(["--workers=2"]))] == ["nginx TCP, 2"]
    scenarios = [scenario(name) for name in ("kept-1", "kept-32", "new", "idle")]
    assert [each.name for each in choose_scenarios(scenarios, parse(["--scenarios=new,kept-*"]))] == [
        "kept-1",
        "kept-32",
        "new",
    ]
    assert choose_scenarios(scenarios, parse([])) == scenarios


@pytest.mark.parametrize("arguments", [["--relays=squid"], ["--workers=2", "--relays=naive"]])
def test_a_choice_of_no_relay_is_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError, match="none of"):
        choose_relays(EVERY_TCP, parse(arguments))


def test_a_scenario_that_does_not_exist_is_refused_although_another_does() -> None:
    with pytest.raises(UsageError, match="--scenarios odd: none of kept-1"):
        choose_scenarios([scenario("kept-1")], parse(["--scenarios=kept-1,odd"]))


@pytest.mark.parametrize("argument", ["--relays=(", "--workers=3", "--rounds=0", "--seconds=-1", "--rounds=x"])
def test_wrong_options_are_refused(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([argument])
    assert argument.partition("=")[0] in capsys.readouterr().err


def test_only_a_whole_run_replaces_the_results_that_are_kept() -> None:
    assert parse([]).is_whole
    assert parse(["--seed=4", "--rounds=5"]).is_whole
    for part in ("--quick", "--scenarios=new", "--relays=nginx", "--workers=1", "--seconds=1", "--rounds=2"):
        assert not parse([part]).is_whole
