"""Watch something that the proxy does in the background until it has ended, also when the proxy itself comes anew."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.cli.events import Events, StreamEndedError
from proxy.cli.plain import Plain
from proxy.cli.terminal import is_live
from proxy.errors import NotRunningError

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.cli.client import Client
    from proxy.cli.live import Screen
    from proxy.cli.progress import Story

    # Where a stream was broken: the result, if there is one by now. Raises NotRunningError when nobody answers, and
    # another ProxyError when the proxy knows nothing of the story any more.
    LookUp = Callable[[Client, Story], dict[str, Any] | None]

T = TypeVar("T")

DETACHED = 130  # not 0: a script that was interrupted must not take what it asked for as done
RETURN = 30.0  # seconds for a proxy that is being upgraded, or started again by its supervisor, to answer

_PACE = 0.1  # seconds between two attempts; a stream that has broken may break again at once
_FIRST = 1.0  # seconds that the first attempt waits for an answer


class GoneError(Exception):
    """Nobody has answered for `seconds`. `last` is what the last attempt met."""

    def __init__(self, seconds: float, last: NotRunningError) -> None:
        super().__init__(last.message)
        self.seconds = seconds
        self.last = last


def follow(client: Client, events: Events, story: Story, look_up: LookUp, *, to_stderr: bool) -> None:
    """Show the progress until there is a result. Raises GoneError when no proxy answers for some time."""
    stops = False
    with _view(story, to_stderr=to_stderr) as view:
        while story.result is None:
            try:
                for event in events.wait(view.tick):
                    stops = event["type"] == "stop" or stops
                    story.take(event)
            except StreamEndedError:
                view.update()
                patience = 0.0 if stops else RETURN
                if result := _come_back(client, events, story, look_up, view, patience=patience):
                    story.take_result(result)
            view.update()


def _view(story: Story, *, to_stderr: bool) -> Plain | Screen:
    stream = sys.stderr if to_stderr else sys.stdout
    if not is_live(stream):
        return Plain(story, stream)
    from proxy.cli.live import Screen  # noqa: PLC0415 - only for a terminal

    return Screen(story, stream)


def _come_back(
    client: Client, events: Events, story: Story, look_up: LookUp, view: Plain | Screen, *, patience: float
) -> dict[str, Any] | None:
    """Open the stream anew, and learn what was missed: it may have ended meanwhile."""
    told = False

    def say(passed: float) -> None:
        nonlocal told
        if passed >= _FIRST and not told:
            view.say(f"waiting up to {patience:g}s for the control process to come back; connections go on meanwhile")
            told = True
        view.update()

    def ask(client: Client) -> dict[str, Any] | None:
        events.reopen(client)
        return look_up(client, story)

    return insist(client, ask, patience, say)


def insist(client: Client, ask: Callable[[Client], T], patience: float, waits: Callable[[float], None]) -> T:
    """Ask until a proxy answers; `waits` is called in between with the seconds that have passed. Raises GoneError.

    While control replaces itself, connections wait in the queue of its socket. Each attempt waits for as long as all
    before it, so that one is long enough for whatever answers at all.
    """
    began, passed = time.monotonic(), 0.0
    while True:
        time.sleep(_PACE)
        try:
            return ask(client.within(max(_FIRST, min(passed, patience - passed))))
        except NotRunningError as error:
            passed = time.monotonic() - began
            if passed >= patience:
                raise GoneError(passed, error) from error
        waits(passed)
