"""The demo from beginning to end, told as it happens."""

from __future__ import annotations

import signal
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import click
import trio

from proxy.cli import complain
from proxy.cli.demo import figures, orders
from proxy.cli.demo.chat import Chat
from proxy.cli.demo.clients import Load
from proxy.cli.demo.download import Download
from proxy.cli.demo.epilogue import after, while_it_runs
from proxy.cli.demo.narrator import Narrator
from proxy.cli.demo.stage import stage
from proxy.cli.demo.summary import Summary, Swap
from proxy.cli.terminal import took

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxy.cli.demo.stage import Stage

_SCENE = 1.0  # seconds between two events, to see them
_GOODBYE = 0.5  # seconds from the end of the download to that of the websocket


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
        self._chat = Chat(scene.port)
        self._download = Download(scene.port)
        self._swaps: list[Swap] = []
        self._narrator = Narrator()

    async def tell(self, *, keep: bool) -> int:
        """Tell it all; returns the exit code."""
        load, say = self._load, self._narrator.say
        say(f'a proxy serves v1 of a small web server on http://127.0.0.1:{self._scene.port}, with protocol = "http"')
        say(f"its admin page, to look on and to swap as well, is {self._scene.page}")
        say(f"{load.readers} clients begin to GET and {load.buyers} to POST, each on one connection that it keeps")
        try:
            async with trio.open_nursery() as reports:
                reports.start_soon(self._report)
                await self._act()
                reports.cancel_scope.cancel()
        finally:
            self._narrator.finish()
        summary = Summary(
            load,
            self._chat,
            self._download,
            orders.balance(self._scene.orders, load.orders),
            figures.read(await self._scene.metrics()),
            self._swaps,
        )
        if not keep:
            self._narrator.ask("proxyctl stop")
            await self._scene.stop(on_line=self._narrator.quote)
        closing = while_it_runs(self._scene) if keep else after()
        click.echo("\n".join(["", "Summary", *summary.lines(), "", *closing]))
        return 1 if summary.faults else 0

    async def _act(self) -> None:
        async with trio.open_nursery() as clients:
            clients.start_soon(self._load.run)
            await trio.sleep(_SCENE)
            for version in ("v2", "v1"):
                await self._swap(version)
                await trio.sleep(_SCENE)
            await self._swap_amid_long_ones("v2")
            await trio.sleep(_SCENE)
            await self._swap("v1")
            await trio.sleep(_SCENE)
            self._load.stop()

    async def _swap(self, version: str, *, is_long: bool = False, on_switch: Callable[[], None] = lambda: None) -> None:
        """`on_switch` is called when the switch has been reported, and at the end."""
        self._narrator.ask(f"proxyctl swap {version}")
        swap = Swap(asked=trio.current_time(), is_long=is_long)

        def heard(line: str) -> None:
            if line.startswith("switch "):
                swap.switched = trio.current_time()
                on_switch()
            self._narrator.quote(line)

        swap.result = await self._scene.swap(version, on_line=heard)
        self._swaps.append(swap)
        on_switch()

    async def _swap_amid_long_ones(self, version: str) -> None:
        """The swap waits in its drain for the websocket and the download, which begin before it."""
        # Where a start takes long, a download of fixed length could be over before the switch.
        starts = [swap.switched - swap.asked for swap in self._swaps if swap.switched < inf]
        seconds = 3 + 2 * max(starts, default=1)
        switched = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._chat.run)
            await self._chat.under_way.wait()
            self._narrator.say(f"a websocket is open with {self._chat.version or 'nobody'}")
            nursery.start_soon(self._watch_download, seconds, switched)
            await self._download.under_way.wait()
            await self._swap(version, is_long=True, on_switch=switched.set)

    async def _watch_download(self, seconds: float, switched: trio.Event) -> None:
        download, say = self._download, self._narrator.say
        say(f"a download begins, which takes {seconds:.1f} seconds")
        await download.run(seconds)
        if download.failure:
            say(f"the download failed: {download.failure}", "red")
        else:
            say(f"the download is complete, from {download.version}, after {took(download.ended - download.began)}")
        await switched.wait()
        await trio.sleep(_GOODBYE)
        self._chat.stop()
        say("the websocket's client says goodbye")

    async def _report(self) -> None:
        """How it goes, and which versions have answered in the last second."""
        load = self._load
        while True:
            await trio.sleep(self._narrator.tick)
            shares = load.versions(since=trio.current_time() - 1)
            answered = ", ".join(f"{name} {count}" for name, count in sorted(shares.items()))
            self._narrator.stand(
                f"{load.sent:>6,} requests, {load.failed} failed, {load.reopened} connections reopened; "
                f"in this second: {answered or 'none'}",
                "red" if load.failed or load.reopened else "green",
            )
