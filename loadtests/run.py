"""The rounds: which relay is measured under what and when, and what happens when a measurement fails."""

from __future__ import annotations

import random
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtests.model import INHERIT, STEER
from loadtests.ratios import NAIVE, PROXIES
from loadtests.targets import APART

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from loadtests.fleet import Fleet
    from loadtests.model import Relay, Sample, Scenario
    from loadtests.progress import Progress
    from loadtests.results import Measured

# What a second worker is for shows in these; it would double the time of all others for little.
WITH_MORE_WORKERS = frozenset({"kept-32", "kept-256", "new"})
_ROUNDS_WITH_MORE = 2

# What tells nothing, of a relay without a hop, that it does not tell of direct or in another scenario; and of the naive
# one nothing is asked there.
_TELLS_NOTHING = {
    NAIVE: frozenset(APART),
    STEER: frozenset({"varied", "fixed-30"}),
    INHERIT: frozenset({"varied", "fixed-30", "fixed-70", "websocket", "idle"}),
}
_TURN = 0.5  # of the seconds of a load

_CAPACITY = "kept-32"
_PATIENCE = 180.0  # beside the load: 10,000 connections, a gigabyte, a swap


class NotMeasuredError(LookupError):
    """What a scenario builds on was not measured in this run."""


class TookTooLongError(Exception):
    """A measurement hung. It is no OSError, which some scenarios expect of sockets, and count."""


@dataclass(frozen=True)
class Step:
    """One measurement."""

    round: int  # from 1
    scenario: Scenario
    relay: Relay
    turn: int = 0  # from 1; 0: it is not split


class Capacity:
    """Requests/s of the slowest proxy other than this one, on 32 kept connections, by what the run has measured.

    Once it is asked for it stays the same, so that all rounds and all relays get the same rate.
    """

    def __init__(self) -> None:
        self.measured: Measured | None = None
        self.value = 0.0

    def __call__(self) -> float:
        """NotMeasuredError if there is none."""
        self.value = self.value or self._slowest()
        return self.value

    def _slowest(self) -> float:
        relays = self.measured.relays if self.measured else []
        peers = [relay.name for relay in relays if relay.product in PROXIES and relay.workers == 1]
        rates = [self.measured.typical(_CAPACITY, name, "rate") for name in peers] if self.measured else []
        slowest = min((rate for rate in rates if rate), default=0.0)
        if not slowest:
            raise NotMeasuredError(f"needs {_CAPACITY} of at least one of {', '.join(PROXIES)} in the same run")
        return slowest


def plan(relays: Sequence[Relay], scenarios: Sequence[Scenario], rounds: int, seed: int) -> list[Step]:
    """All measurements in their order: scenarios as they are given, relays shuffled anew each time."""
    shuffling = random.Random(seed)
    steps = []
    for number in range(1, rounds + 1):
        for scenario in scenarios:
            fitting = [relay for relay in relays if _fits(scenario, relay, number)]
            steps += _in_turns(number, scenario, shuffling.sample(fitting, len(fitting)))
    return steps


def _fits(scenario: Scenario, relay: Relay, number: int) -> bool:
    """Whether the relay can be measured so in this round, and whether that tells anything."""
    if relay.protocol not in scenario.protocols or number > scenario.rounds:
        return False
    if relay.workers > 1:
        return scenario.name in WITH_MORE_WORKERS and number <= _ROUNDS_WITH_MORE
    return not any(scenario.name in _TELLS_NOTHING.get(kind, ()) for kind in (relay.datapath, relay.product))


def _in_turns(number: int, scenario: Scenario, relays: Sequence[Relay]) -> list[Step]:
    """One step for each relay, but for those without a hop, where there are several and the scenario has turns.

    These are where the first of them is, in turn, there and back: each gets the same of a machine that becomes slower
    or faster meanwhile.
    """
    close = [relay for relay in relays if relay.has_no_hop] if scenario.turns > 1 else []
    steps = []
    for relay in relays:
        if len(close) < 2 or relay not in close:
            steps.append(Step(number, scenario, relay))
        elif relay is close[0]:
            for turn in range(1, scenario.turns + 1):
                steps += [Step(number, scenario, each, turn) for each in (close if turn % 2 else reversed(close))]
    return steps


class Run:
    """Carries out the steps. `measured` grows as it goes, so that it is whole whenever somebody interrupts."""

    def __init__(self, fleet: Fleet, measured: Measured, seconds: float, progress: Progress) -> None:
        self._fleet, self._measured, self._seconds, self._progress = fleet, measured, seconds, progress
        self._not_measured: set[str] = set()  # names of scenarios, said once

    def go(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if self._can(step):
                self._progress.begin(step)
                self._measure(step)
            self._progress.end(step)

    def _can(self, step: Step) -> bool:
        running = self._fleet.running(step.relay)
        return running is not None and (running.swap is not None or not step.scenario.needs_swap)

    def _measure(self, step: Step) -> None:
        try:
            seconds = self._seconds * (_TURN if step.turn else 1)
            with time_limit(seconds * 10 + _PATIENCE):
                sample = self._sample(step, seconds)
        except NotMeasuredError as error:
            if step.scenario.name not in self._not_measured:
                self._leave_out(f"{step.scenario.name}: {error}")
            self._not_measured.add(step.scenario.name)
        except Exception as error:  # noqa: BLE001 - a relay may fail in any way; the others are still to be measured
            self._leave_out(f"{step.scenario.name}: {step.relay.name}, round {step.round}: {in_short(error)}")
            if not step.scenario.is_fresh:
                self._restart(step.relay)
        else:
            self._measured.add(step.scenario.name, step.relay.name, step.round, sample, step.turn)

    def _sample(self, step: Step, seconds: float) -> Sample:
        if step.scenario.is_fresh:
            with self._fleet.fresh(step.relay) as running:
                return step.scenario.run(running, self._fleet.backends, seconds)
        running_now = self._fleet.running(step.relay)
        assert running_now is not None, "asked before"
        return step.scenario.run(running_now, self._fleet.backends, seconds)

    def _restart(self, relay: Relay) -> None:
        """Nobody knows what state it is in."""
        try:
            self._fleet.restart(relay)
        except Exception as error:  # noqa: BLE001 - as above
            self._leave_out(f"{relay.name}, from here on: does not start again: {in_short(error)}")

    def _leave_out(self, what: str) -> None:
        self._measured.results.left_out.append(what)
        self._progress.say(f"left out: {what}")


def in_short(error: BaseException) -> str:
    """Its kind and, on one line, the beginning of what it says."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:300]}" if words else type(error).__name__


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """TookTooLongError in the block once it has taken longer, whatever it waits for: by SIGALRM, in the main thread."""

    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise TookTooLongError(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
