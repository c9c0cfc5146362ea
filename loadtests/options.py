"""The command line: what to measure, how long, and where the results go."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import loadtests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtests.model import Relay, Scenario

HOME = Path(__file__).parent

_ROUNDS = 3
_SECONDS = 2.0


class UsageError(Exception):
    """Nothing is left that could be measured, as the command line has it."""


@dataclass(frozen=True)
class Options:
    scenarios: str
    relays: str
    workers: frozenset[int]
    rounds: int
    seconds: float
    seed: int | None
    out: Path | None
    lists: bool
    report: Path | None

    @property
    def is_whole(self) -> bool:
        """Whether it measures all there is, for long enough to be worth keeping."""
        is_all = not (self.scenarios or self.relays) and self.workers == {1, 2}
        return is_all and self.rounds >= _ROUNDS and self.seconds >= _SECONDS


def parse(arguments: Sequence[str]) -> Options:
    """Of the command line; exits with status 2 if it is wrong."""
    given = _parser().parse_args(arguments)
    return Options(
        scenarios=given.scenarios,
        relays=given.relays,
        workers=given.workers,
        rounds=given.rounds or (1 if given.quick else _ROUNDS),
        seconds=given.seconds or (0.5 if given.quick else _SECONDS),
        seed=given.seed,
        out=given.out,
        lists=given.list,
        report=given.report,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests", description=loadtests.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenarios", default="", metavar="NAMES", help="some of --list, with commas; * is allowed")
    parser.add_argument("--relays", default="", type=pattern, metavar="REGEX", help="found in their names")
    parser.add_argument("--workers", default=frozenset({1, 2}), type=_workers, help="1, 2 or 1,2; default 1,2")
    parser.add_argument("--rounds", type=_positive(int), help="at most; default 3, with --quick 1")
    parser.add_argument("--seconds", type=_positive(float), help="of each load; default 2, with --quick 0.5")
    parser.add_argument("--seed", type=int, help="of the order of relays; default a new one")
    parser.add_argument("--quick", action="store_true", help="one short round: to see that everything works")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where results.json, RESULTS.md and charts/ go")
    parser.add_argument("--list", action="store_true", help="scenarios and relays, and why some cannot be measured")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="make the report there anew; measure nothing")
    return parser


def choose_relays(relays: Sequence[Relay], options: Options) -> list[Relay]:
    """UsageError if there is none."""
    meant = [each for each in relays if re.search(options.relays, each.name, re.IGNORECASE)]
    chosen = [each for each in meant if each.workers in options.workers]
    if not chosen:
        raise UsageError(f"--relays {options.relays}: none of {'; '.join(each.name for each in relays)}")
    return chosen


def choose_scenarios(scenarios: Sequence[Scenario], options: Options) -> list[Scenario]:
    """In their own order. UsageError if a name stands for none."""
    names = [name.strip() for name in (options.scenarios or "*").split(",")]
    for name in names:
        if not any(fnmatchcase(each.name, name) for each in scenarios):
            raise UsageError(f"--scenarios {name}: none of {', '.join(each.name for each in scenarios)}")
    return [each for each in scenarios if any(fnmatchcase(each.name, name) for name in names)]


def pattern(text: str) -> str:
    """The type of an option that is a regular expression, for argparse."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None
    return text


def _workers(text: str) -> frozenset[int]:
    chosen = frozenset(text.split(","))
    if not chosen <= {"1", "2"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1, 2 or 1,2")
    return frozenset(int(each) for each in chosen)


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def convert(text: str) -> float:
        if (value := kind(text)) <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return convert
