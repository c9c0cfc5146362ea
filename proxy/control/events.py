"""What happens in the proxy, told to whoever listens: the API's event stream and the command line's progress."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

# A reader that falls this far behind is let go; the stream ends and it can begin anew from /v1/status.
BACKLOG = 1000


class Bus:
    """Publishing never waits. Each subscriber has its own bounded backlog."""

    def __init__(self) -> None:
        self._channels: set[trio.MemorySendChannel[Json]] = set()
        self._closed = False

    def publish(self, kind: str, **values: Any) -> None:
        """`time`, where it is not among the values, is now."""
        event = {"type": kind, "time": round(time.time(), 3), **values}
        for channel in tuple(self._channels):
            try:
                channel.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._channels.discard(channel)
                channel.close()

    @contextmanager
    def subscribe(self) -> Iterator[trio.MemoryReceiveChannel[Json]]:
        send, receive = trio.open_memory_channel[Json](BACKLOG)
        if self._closed:
            send.close()
        else:
            self._channels.add(send)
        try:
            with receive:
                yield receive
        finally:
            self._channels.discard(send)
            send.close()

    def close(self) -> None:
        """End every stream after what is already in it."""
        self._closed = True
        while self._channels:
            self._channels.pop().close()
