"""All relays of a run: up at once, since idle ones cost nothing, so that every round meets the same processes."""

from __future__ import annotations

import itertools
import os
import re
import signal
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Self

from loadtests.machine import family

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from loadtests.model import Backends, Relay, Running


class Fleet:
    """Relays in front of the same backends. As a context manager: when it ends, so do they."""

    def __init__(self, folder: Path, backends: Backends) -> None:
        self.backends = backends
        self._folder = folder
        self._numbers = itertools.count(1)
        self._up: dict[str, tuple[Running, ExitStack]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with ExitStack() as stack:  # one that does not end well is no reason to leave the others running
            for _, each in self._up.values():
                stack.push(each)
            self._up.clear()

    def start(self, relay: Relay) -> None:
        """Bring it up; RuntimeError or OSError if it does not serve."""
        with ExitStack() as stack:
            running = stack.enter_context(self.fresh(relay))
            self._up[relay.name] = (running, stack.pop_all())

    def restart(self, relay: Relay) -> None:
        """End it, and bring it up anew. If that fails, it is not up any more."""
        _, stack = self._up.pop(relay.name)
        stack.close()
        self.start(relay)

    def running(self, relay: Relay) -> Running | None:
        """None if it is not up."""
        running, _ = self._up.get(relay.name, (None, None))
        return running

    @contextmanager
    def fresh(self, relay: Relay) -> Iterator[Running]:
        """One more of this kind, in a folder of its own, until the block ends."""
        folder = self._folder / f"{next(self._numbers)}-{re.sub(r'[^a-z0-9]+', '-', relay.name.lower())}"
        folder.mkdir()
        folder.chmod(0o755)  # some have workers that run as another user
        with relay.start(folder, self.backends) as running:
            yield running


@contextmanager
def nothing_left() -> Iterator[None]:
    """When the block ends, kill whatever this process has started that still runs.

    An exception out of a signal handler, as Ctrl-C is one, can come in the middle of starting a program: then it runs,
    and nobody knows of it.
    """
    try:
        yield
    finally:
        for pid in family(os.getpid()) - {os.getpid()}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
