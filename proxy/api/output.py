"""The stream behind `proxyctl logs`: what a version's backends printed, as plain text."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING

import trio

from proxy.api.printed import Printed
from proxy.api.stream import while_wanted
from proxy.kernel.inotify import FolderWatch
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

_PACE = 0.1  # seconds between two looks: a backend that prints without pause is read in pieces, not line by line
_POLL = 1.0  # seconds, where there is no folder to watch yet

_HEADERS = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]

log = logging.getLogger(__name__)


class OutputStream:
    """An ASGI response: the last `lines` lines, and with `follow` each new one until the client leaves."""

    def __init__(
        self,
        files: Callable[[], Sequence[Path]],
        folder: Path,
        *,
        lines: int,
        follow: bool,
        closing: trio.Event,
    ) -> None:
        self._printed = Printed(files)
        self._folder = folder
        self._lines = lines
        self._follow = follow
        self._closing = closing

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async with while_wanted(receive, self._closing):
            await self._send_last(send)
            if self._follow:
                await self._send_news(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_last(self, send: Send) -> None:
        pieces = self._printed.last(self._lines)
        while piece := await trio.to_thread.run_sync(next, pieces, b""):
            await _send(send, piece)
        if not self._follow:
            await _send(send, self._printed.rest())

    async def _send_news(self, send: Send) -> None:
        with ExitStack() as stack:
            watch = None
            while True:
                watch = watch or self._watch(stack)
                while piece := await trio.to_thread.run_sync(self._printed.news):
                    await _send(send, piece)
                if watch:
                    await watch.wait()
                await trio.sleep(_PACE if watch else _POLL)

    def _watch(self, stack: ExitStack) -> FolderWatch | None:
        try:
            return stack.enter_context(FolderWatch(self._folder))
        except FileNotFoundError:  # the version has not been started yet
            return None
        except OSError as error:
            log.warning("output is polled, not watched", extra=facts(folder=self._folder, reason=error.strerror))
            return None


async def _send(send: Send, content: bytes) -> None:
    if content:
        await send({"type": "http.response.body", "body": content, "more_body": True})
