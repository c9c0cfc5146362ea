"""`python -m loadtests`: see the package's own words, or --help."""

from __future__ import annotations

import random
import shlex
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests import report
from loadtests.backends import backends
from loadtests.fleet import Fleet, nothing_left
from loadtests.machine import conditions, raise_descriptor_limit
from loadtests.options import HOME, Options, UsageError, choose_relays, choose_scenarios, parse
from loadtests.progress import Progress
from loadtests.relays import relays
from loadtests.results import Measured
from loadtests.run import Capacity, Run, in_short, plan
from loadtests.scenarios import scenarios

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from loadtests.model import Relay, Scenario

_INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        if options.report:
            print(report.terminal(report.render(options.report)))
            return 0
        capacity = Capacity()
        every = relays()
        measured = Measured(choose_relays(every, options), choose_scenarios(scenarios(capacity), options))
    except (UsageError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.lists:
        print(_listing(measured))
        return 0
    capacity.measured = measured
    return _run(measured, options, shlex.join(["python", "-m", "loadtests", *arguments]))


def _run(measured: Measured, options: Options, command: str) -> int:
    for number in _ENDS:
        signal.signal(number, _interrupt)
    raise_descriptor_limit()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    measured.results.about = _about(measured, options, command, seed)
    status = 0
    try:
        with nothing_left(), _started(measured) as fleet:
            steps = plan(measured.relays, measured.scenarios, options.rounds, seed)
            progress = Progress(steps, options.seconds, sys.stderr)
            try:
                Run(fleet, measured, options.seconds, progress).go(steps)
            finally:
                progress.close()
    except KeyboardInterrupt:
        print("interrupted: what was measured so far follows", file=sys.stderr)
        measured.results.about["interrupted"] = "yes: not all rounds are there"
        status = _INTERRUPTED
    if not measured.results.samples:
        print("nothing was measured", file=sys.stderr)
        return status or 1
    _show(measured, options, is_whole=options.is_whole and status == 0)
    return status


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Once: what was started has to end, which takes a while; a second Ctrl-C would leave it running."""
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _show(measured: Measured, options: Options, *, is_whole: bool) -> None:
    """Print and write it; the results that are kept beside this file are replaced by whole ones alone."""
    folder = options.out or (HOME if is_whole else Path(tempfile.mkdtemp(prefix="loadtests-")))
    report.save(folder, measured)
    print(report.terminal(measured))
    print(f"\nwritten: {folder / report.RESULTS}, {folder / report.REPORT}, {folder / report.CHARTS}", file=sys.stderr)


@contextmanager
def _started(measured: Measured) -> Iterator[Fleet]:
    """Backends, then all relays that can be had; says which cannot, and leaves these and scenarios like them out."""
    with tempfile.TemporaryDirectory(prefix="loadtests-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "backends").mkdir()
        with backends(folder / "backends") as behind, Fleet(folder, behind) as fleet:
            measured.scenarios = [each for each in measured.scenarios if not _is_missing(measured, each)]
            for relay in measured.relays:
                if not _is_missing(measured, relay):
                    _start(fleet, measured, relay)
            yield fleet


def _is_missing(measured: Measured, what: Relay | Scenario) -> bool:
    if what.missing:
        _leave_out(measured, f"{what.name}: {what.missing}")
    return bool(what.missing)


def _start(fleet: Fleet, measured: Measured, relay: Relay) -> None:
    try:
        fleet.start(relay)
    except Exception as error:  # noqa: BLE001 - it may fail in any way; the others are still to be measured
        _leave_out(measured, f"{relay.name}: does not start: {in_short(error)}")


def _leave_out(measured: Measured, what: str) -> None:
    measured.results.left_out.append(what)
    print(f"left out: {what}", file=sys.stderr)


def _about(measured: Measured, options: Options, command: str, seed: int) -> dict[str, str]:
    versions = dict.fromkeys(each.version() for each in measured.relays if not each.missing)
    loads = f"{options.rounds} x {options.seconds:g} s for each load and relay, some scenarios fewer rounds"
    about = {"command": f"`{command}`", "machine": conditions(), "versions": "; ".join(filter(None, versions))}
    return about | {"rounds": loads, "order": f"shuffled, seed {seed}"}


def _listing(measured: Measured) -> str:
    lines = ["scenarios:"]
    lines += [f"  {each.name:<12}{each.title}{_missing(each)}" for each in measured.scenarios]
    lines += ["relays:", *(f"  {each.name}{_missing(each)}" for each in measured.relays)]
    return "\n".join(lines)


def _missing(what: Relay | Scenario) -> str:
    return f"  (left out: {what.missing})" if what.missing else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
