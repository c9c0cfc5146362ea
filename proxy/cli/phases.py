"""How far something is, as people see it: marks before phases, and a bar for a drain."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, NamedTuple

from proxy.cli.cells import best, span
from proxy.cli.terminal import age, shows, took

if TYPE_CHECKING:
    from proxy.cli.progress import Story

_LONGEST_BAR = 20  # columns
_SHORTEST_BAR = 5  # a shorter one says nothing


class Marks(NamedTuple):
    """What stands before a phase."""

    good: str
    bad: str
    running: str = ">"
    ahead: str = "-"


def marks(stream: IO[str] | None = None) -> Marks:
    return Marks("✓", "✗", ahead="·") if shows("✓✗·", stream) else Marks("+", "x")


def passing(story: Story, now: float) -> list[str]:
    """`✓ start 12ms`, `> health 2.98s`, `· switch`: each phase, with its time where that is known."""
    mark = marks()
    known = [*story.phases, story.begun.get("phase")]
    reached = max((story.names.index(name) for name in known if name in story.names), default=0)
    words = []
    for index, name in enumerate(story.names):
        if phase := story.phases.get(name):
            words.append(f"{mark.running if phase.seconds is None else mark.good} {name} {took(phase.lasted(now))}")
        elif index == reached:
            words.append(f"{mark.running} {name}")
        elif index > reached and name not in story.seldom:
            words.append(f"{mark.ahead} {name}")
        elif index < reached and name in story.certain:
            words.append(f"{mark.good} {name}")
    return words


def drain(remaining: int, initial: int, seconds: float, *, room: int | None, stream: IO[str] | None = None) -> str:
    """`██████░░░░ 12 of 40 left to drain, closed in 25s`, as much of it as there is room for."""
    left = age(seconds)
    forms = [
        f"{remaining} of {initial} left to drain, closed in {left}",
        f"{remaining} of {initial} left, closed in {left}",
        f"{remaining} of {initial}, {left} left",
        f"{remaining}/{initial}, {left}",
    ]
    for form in forms:
        wide = _LONGEST_BAR if room is None else min(_LONGEST_BAR, room - span(form) - 1)
        if wide >= _SHORTEST_BAR:
            return f"{bar(initial - remaining, initial, wide, stream)} {form}"
    return best(forms, room)


def bar(done: int, total: int, columns: int, stream: IO[str] | None = None) -> str:
    """Full when all is done, and not before."""
    full, empty = "█░" if shows("█░", stream) else "#-"
    filled = max(0, columns * done // total if total else columns)
    return full * filled + empty * (columns - filled)
