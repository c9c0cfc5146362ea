"""The demo from beginning to end, told as it happens."""

from __future__ import annotations

import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from proxy.cli import complain
from proxy.cli.demo.backend import SLOW
from proxy.cli.demo.clients import FailedError, Load, fetch
from proxy.cli.demo.stage import stage
from proxy.cli.demo.summary import Summary, Swap
from proxy.cli.terminal import paint, took

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.cli.demo.stage import Stage

_SCENE = 1.5  # seconds between two events, to see them


def tell(*, keep: bool) -> int:
    """Play the demo; returns the exit code. Raises ProxyError when it cannot be played at all."""
    try:
        return trio.run(partial(_play, keep=keep))
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


async def _play(*, keep: bool) -> int:
    code = 0

    async def obey(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        nonlocal code
        async for number in signals:
            code = 128 + number
            scope.cancel()

    # Around everything, also the cleaning up, which a second Ctrl-C must not interrupt.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(obey, signals, nursery.cancel_scope)
            async with stage() as scene:
                code = await Story(scene).tell(keep=keep)
                scene.keep = keep
            nursery.cancel_scope.cancel()
    if nursery.cancel_scope.cancelled_caught and code >= 128:
        complain("interrupted; the proxy and all that it ran are gone")
    return code


class Story:
    def __init__(self, scene: Stage) -> None:
        self._scene = scene
        self._load = Load(scene.port)
        self._summary = Summary(self._load)
        self._began = trio.current_time()

    async def tell(self, *, keep: bool) -> int:
        """Tell it all; returns the exit code."""
        self._say(f"a proxy serves v1 of a small web server on http://127.0.0.1:{self._scene.port}")
        self._say(f"{self._load.clients} clients begin: one short connection after another")
        async with trio.open_nursery() as reports:
            reports.start_soon(self._report)
            await self._act()
            reports.cancel_scope.cancel()
        if not keep:
            self._say(paint("$ proxyctl stop", "bold"))
            await self._scene.stop(on_line=self._quote)
        click.echo("\n".join(["", "Summary", *self._summary.lines()]))
        if keep:
            click.echo("\n".join(["", *_to_try(self._scene)]))
        return 1 if self._summary.faults else 0

    async def _act(self) -> None:
        async with trio.open_nursery() as clients:
            clients.start_soon(self._load.run)
            await trio.sleep(_SCENE)
            clients.start_soon(self._send_slow_request)
            await trio.sleep(_SCENE / 3)
            await self._swap("v2")
            await trio.sleep(_SCENE)
            await self._swap("v1")
            await trio.sleep(_SCENE)
            self._load.stop()

    async def _swap(self, version: str) -> None:
        self._say(paint(f"$ proxyctl swap {version}", "bold"))
        swap = Swap(asked=trio.current_time())

        def heard(line: str) -> None:
            if line.startswith("switch "):
                swap.switched = trio.current_time()
            self._quote(line)

        swap.result = await self._scene.swap(version, on_line=heard)
        self._summary.swaps.append(swap)

    async def _send_slow_request(self) -> None:
        self._say(f"a slow request begins; it takes {SLOW:g} seconds to answer")
        try:
            answer = await fetch(self._scene.port, "/slow", patience=30)
        except FailedError as error:
            self._summary.slow = str(error)
            self._say(paint(f"the slow request failed: {error}", "red"))
        else:
            self._summary.slow = answer
            self._say(f"the slow request is answered, by {answer.version}, after {took(answer.seconds)}")

    async def _report(self) -> None:
        """Each second, which versions answered in it."""
        since = trio.current_time()
        while True:
            await trio.sleep(1)
            now = trio.current_time()
            shares = ", ".join(f"{name} {count}" for name, count in sorted(self._load.versions(since=since).items()))
            since = now
            failed = self._load.failed
            failures = paint(f"{failed} failed", "red" if failed else "green")
            self._say(f"{self._load.sent:>5,} requests, {failures}; in this second: {shares or 'none'}")

    def _quote(self, line: str) -> None:
        self._say(paint(f"    {line}", "dim"))

    def _say(self, text: str) -> None:
        click.echo(f"{trio.current_time() - self._began:5.1f}s  {text}")


def _to_try(scene: Stage) -> list[str]:
    proxyctl = f"{_program()} --socket {scene.socket}"
    return [
        "The proxy goes on. To try:",
        f"  curl http://127.0.0.1:{scene.port}/",
        f"  {proxyctl} status",
        f"  {proxyctl} swap v2",
        f"  {proxyctl} rollback",
        f'  {proxyctl} swap v3 --command "{scene.backend_command}"',
        f"  {proxyctl} history",
        f"  curl --unix-socket {scene.socket} http://localhost/metrics",
        "To end it, and remove its folder:",
        f"  {proxyctl} stop && rm -r {scene.folder}",
    ]


def _program() -> str:
    """What to type to get this program again."""
    if shutil.which("proxyctl"):
        return "proxyctl"
    started = Path(sys.argv[0]).absolute()
    return str(started) if started.name == "proxyctl" else f"{sys.executable} -m proxy.cli"
