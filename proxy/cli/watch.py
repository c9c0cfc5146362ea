"""`proxyctl status --watch`: in place on a terminal, else one picture after the other."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from proxy.cli.canvas import Canvas
from proxy.cli.cells import wrapped
from proxy.cli.events import Events, StreamEndedError
from proxy.cli.follow import GoneError, insist
from proxy.cli.overview import overview, under_way
from proxy.cli.progress import Progress
from proxy.cli.terminal import age, paint, width
from proxy.cli.upgrade_progress import UpgradeProgress
from proxy.errors import NotRunningError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxy.cli.client import Client
    from proxy.cli.progress import Story

    Json = dict[str, Any]
    Ask = Callable[[Client], Json]  # the status

_IDLE = 2.0  # seconds after which it is drawn again without an event: connections come and go silently
_BUSY = 0.5  # the same while something is under way, and counts down
_PACE = 0.1  # seconds that events are gathered for, so that many of them are one drawing
_ANSWER = 3.0  # seconds that a proxy has to answer before the screen says that it does not
_RETRY = 0.2
_RETURN = 3.0  # seconds for a proxy that replaces itself to answer, where there is no screen to wait in front of


class Stories:
    """What is under way, as far as it has been told of since the event stream was opened."""

    def __init__(self) -> None:
        self._known: dict[int, Story] = {}

    def all(self) -> list[Story]:
        return [*self._known.values()]

    def forget(self) -> None:
        """Some of them may have ended unseen; of the others the status tells."""
        self._known.clear()

    def look(self, status: Json) -> None:
        """Learn what a status says that events do not: where it leads to, and when it began."""
        for service in status["services"].values():
            if operation := under_way(service):
                self._known.setdefault(operation["id"], Progress(operation)).begun = operation
        if upgrade := status["proxy"].get("upgrade"):
            self._known.setdefault(upgrade["id"], UpgradeProgress(upgrade)).begun = upgrade

    def take(self, event: Json) -> None:
        kind = event["type"]
        number = event["id"] if kind == "upgrade" else event.get("operation")
        if number is None:
            return
        if "result" in event:
            self._known.pop(number, None)
        elif number in self._known:
            self._known[number].take(event)
        else:
            begun = {"id": number, "service": event.get("service")}
            story = UpgradeProgress(begun) if kind == "upgrade" else Progress(begun)
            story.take(event)
            self._known[number] = story


def as_lines(client: Client, ask: Ask, *, as_json: bool) -> None:
    """Print it at once, then whenever something happens, until Ctrl-C. Raises NotRunningError if there is no proxy."""
    stories = Stories()
    try:
        with Events(client) as events:
            while True:
                try:
                    status = ask(client)
                    stories.look(status)
                    _print(status, stories, as_json=as_json)
                    while not _gather(events, _IDLE, stories):
                        pass  # a list of equal pictures helps nobody
                except (StreamEndedError, NotRunningError):
                    stories.forget()
                    insist(client, events.reopen, _RETURN, lambda _: None)
    except GoneError as gone:
        raise gone.last from gone
    except KeyboardInterrupt:
        pass


def _print(status: Json, stories: Stories, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(status))
    else:
        click.echo("\n".join([*overview(status, now=time.time(), width=width(), stories=stories.all()), ""]))
    sys.stdout.flush()


def on_screen(client: Client, ask: Ask) -> None:
    """Draw it at once, when something happens, and as time passes, until Ctrl-C. While no proxy answers it says so,
    above what was seen last.
    """
    with contextlib.suppress(KeyboardInterrupt), _resizes() as resized, Events(client, resized) as events:
        view = _View(client.within(_ANSWER), ask, events, resized)
        view.see(ask(client))
        with contextlib.closing(Canvas(sys.stdout, whole=True)) as canvas:
            while True:
                canvas.draw(view.picture)
                view.wait()
                view.look()


class _View:
    """The last status, and since when there has been none."""

    def __init__(self, client: Client, ask: Ask, events: Events, resized: int) -> None:
        self._client, self._ask = client, ask
        self._events, self._has_ended = events, False
        self._resized = resized
        self._stories = Stories()
        self._status: Json = {}
        self._seen = 0.0  # when it was that, in Unix time
        self._trouble, self._silent_since = "", 0.0

    def see(self, status: Json) -> None:
        self._status, self._seen, self._trouble = status, time.time(), ""
        self._stories.look(status)

    def look(self) -> None:
        try:
            if self._has_ended:
                self._events.reopen(self._client)
                self._has_ended = False
                self._stories.forget()
            self.see(self._ask(self._client))
        except NotRunningError as error:
            self._silent_since = self._silent_since if self._trouble else time.time()
            self._trouble = error.message

    def wait(self) -> None:
        """Until there may be something else to show."""
        try:
            if self._has_ended:
                select.select([self._resized], [], [], _RETRY)
            else:
                is_busy = self._trouble or _is_busy(self._status, self._stories)
                _gather(self._events, _BUSY if is_busy else _IDLE, self._stories)
        except StreamEndedError:
            self._has_ended = True
        with contextlib.suppress(BlockingIOError):
            os.read(self._resized, 65536)

    def picture(self, columns: int) -> list[str]:
        now = self._seen if self._trouble else time.time()
        lines = overview(self._status, now=now, width=columns, stories=self._stories.all())
        if not self._trouble:
            return lines
        silence = f"no answer for {age(time.time() - self._silent_since)}; this is what was seen last:"
        head, foot = (wrapped(text, columns) for text in (silence, self._trouble))
        return [*(paint(text, "red") for text in head), "", *lines, "", *(paint(text, "dim") for text in foot)]


def _gather(events: Events, seconds: float, stories: Stories) -> bool:
    """Wait for events and what comes along with them; return whether there were any. Raises StreamEndedError."""
    found = events.wait(seconds)
    until = time.monotonic() + _PACE
    more = found
    while more and (left := until - time.monotonic()) > 0:
        more = events.wait(left)
        found += more
    for event in found:
        stories.take(event)
    return bool(found)


def _is_busy(status: Json, stories: Stories) -> bool:
    """Whether something counts, up or down."""
    services = status["services"].values()
    draining = any(generation["drain"] for service in services for generation in service["generations"])
    return bool(draining or stories.all() or status["proxy"].get("stopping"))


@contextlib.contextmanager
def _resizes() -> Iterator[int]:
    """Yield a descriptor that can be read when the terminal may have another size (SIGWINCH)."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    handler = signal.signal(signal.SIGWINCH, lambda *_: None)  # without one there is nothing to wake up for
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGWINCH, handler)
        os.close(reader)
        os.close(writer)
