"""The demo from beginning to end, told as it happens."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from proxy.cli import complain
from proxy.cli.demo.backend import SLOW
from proxy.cli.demo.clients import Answer, FailedError, Load, fetch
from proxy.cli.demo.stage import Stage, stage
from proxy.cli.demo.summary import Summary, Swap
from proxy.cli.terminal import paint, took

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def tell(*, keep: bool) -> int:
    """Play the demo; returns the exit code. Raises ProxyError when it cannot be played at all."""
    return trio.run(_play, keep)


async def _play(keep: bool) -> int:
    code = 0
    # Around everything, also the cleaning up: a second Ctrl-C must not interrupt that.
    with trio.open_signal_receiver(*_INTERRUPTIONS) as signals:
        async with trio.open_nursery() as nursery:

            async def obey(signals: AsyncIterator[int]) -> None:
                nonlocal code
                async for number in signals:
                    code = 128 + number
                    nursery.cancel_scope.cancel()

            nursery.start_soon(obey, signals)
            async with stage() as scene:
                code = await Story(scene).tell()
                if scene_is_kept := keep:
                    scene.keep = scene_is_kept
            nursery.cancel_scope.cancel()
    return code
