"""The proxy's event stream, read without blocking for longer than the screen may stand still."""

from __future__ import annotations

import json
import select
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from proxy.cli.client import Client

Json = dict[str, Any]

SILENCE = 45.0  # seconds without even a heartbeat (one each 15 s) after which the other end counts as gone


class StreamEndedError(Exception):
    """No more events on this stream: the proxy ended it, or is gone, or let go of a reader that fell behind."""


class Parser:
    """Server-Sent Events as our own server writes them: one `data` line each. Bytes in, events out."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, content: bytes) -> list[Json]:
        *frames, self._buffer = (self._buffer + content).split(b"\n\n")
        lines = (line for frame in frames for line in frame.split(b"\n"))
        return [json.loads(line[5:]) for line in lines if line.startswith(b"data:")]


class Events:
    """A context manager. What happens after it was made is in it, however late it is read.

    `alarm` is a descriptor that ends the waiting when it can be read.
    """

    def __init__(self, client: Client, alarm: int = -1) -> None:
        self._alarm = alarm
        self._open(client)

    def _open(self, client: Client) -> None:
        self._socket, self._answer = client.open_stream("/v1/events")
        self._socket.setblocking(False)
        self._parser = Parser()
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        if self._alarm >= 0:
            self._poll.register(self._alarm, select.POLLIN)
        self._heard = time.monotonic()
        self._early = True

    def reopen(self, client: Client) -> None:
        """Begin anew after StreamEndedError. Raises NotRunningError when no proxy answers (any more, or yet)."""
        self.close()
        self._open(client)

    def wait(self, seconds: float) -> list[Json]:
        """The next events, as soon as there are any; an empty list after `seconds`, or at the alarm. Raises
        StreamEndedError.
        """
        if self._early:  # what came along with the head of the answer is in the buffer already
            self._early = False
            if content := self._answer.early():
                return self._parser.feed(content)
        if not any(ready == self._socket.fileno() for ready, _ in self._poll.poll(seconds * 1000)):
            if time.monotonic() - self._heard > SILENCE:
                raise StreamEndedError
            return []
        try:
            content = self._socket.recv(65536)
        except OSError as error:
            raise StreamEndedError from error
        if not content:
            raise StreamEndedError
        self._heard = time.monotonic()
        return self._parser.feed(content)

    def close(self) -> None:
        self._answer.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()
