"""A client's connection: kept for as long as the other side keeps it, with one request after another on it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE = 10.0  # seconds for a short request
_PIECE = 65536


class FailedError(Exception):
    """A request that was refused, reset, cut off, too late, or answered with an error."""


@dataclass(frozen=True)
class Answer:
    """`began` is in trio's time; `seconds` from then to the last byte. Names of `headers` are in lower case."""

    version: str
    began: float
    seconds: float
    headers: dict[str, str]


class Connection:
    """It is made by the first request, and made again only by one that finds it closed. No request is sent twice."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stream: trio.SocketStream | None = None
        self._protocol = h11.Connection(h11.CLIENT)
        self._opened = 0
        self._received = 0

    @property
    def reopened(self) -> int:
        """How often the other side made it necessary to connect again."""
        return max(0, self._opened - 1)

    @property
    def is_open(self) -> bool:
        """Whether the other side has it open still, and has not said anything unasked."""
        return self._stream is not None and not self._stream.socket.is_readable()

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        patience: float = _PATIENCE,
        on_piece: Callable[[bytes], None] = lambda _: None,
    ) -> Answer:
        """One request and its whole answer; the content is handed on as it comes. Raises FailedError."""
        began = trio.current_time()
        with self._failing(patience):
            await self._send(method, target, {"Content-Length": str(len(body))} if body else {}, body)
            head = await self._event()
            if not isinstance(head, h11.Response) or head.status_code != 200:
                raise FailedError(f"answered with {_status(head)}")
            while isinstance(piece := await self._event(), h11.Data):
                on_piece(bytes(piece.data))
            headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
            self._next()
        return Answer(headers.get("x-version", "?"), began, trio.current_time() - began, headers)

    async def upgrade(self, target: str, headers: dict[str, str]) -> tuple[trio.SocketStream, dict[str, str], bytes]:
        """Make it a connection of another protocol: its stream, the answer's headers, and what came after them. Raises
        FailedError.
        """
        with self._failing(_PATIENCE):
            stream = await self._send("GET", target, headers, b"")
            head = await self._event()
            if not isinstance(head, h11.InformationalResponse) or head.status_code != 101:
                raise FailedError(f"answered with {_status(head)}")
            names = {name.decode(): value.decode("latin-1") for name, value in head.headers}
            return stream, names, self._protocol.trailing_data[0]

    def close(self) -> None:
        if self._stream:
            self._stream.socket.close()
            self._stream = None

    @contextmanager
    def _failing(self, patience: float) -> Iterator[None]:
        """Whatever goes wrong within is a FailedError, and the end of the connection."""
        try:
            with trio.fail_after(patience):
                yield
        except BaseException as error:
            self.close()
            match error:
                case trio.TooSlowError():
                    raise FailedError(f"no answer within {patience:g} s") from None
                case h11.RemoteProtocolError():
                    raise FailedError(f"cut off after {self._received} bytes") from None
                case OSError() | trio.BrokenResourceError():
                    raise FailedError(str(error.__cause__ or error)) from error
            raise

    async def _send(self, method: str, target: str, headers: dict[str, str], body: bytes) -> trio.SocketStream:
        if self._stream is None:
            self._stream = await _connect(self._port)
            self._protocol = h11.Connection(h11.CLIENT)
            self._opened += 1
        self._received = 0
        request = h11.Request(method=method, target=target, headers=[("Host", "127.0.0.1"), *headers.items()])
        pieces = [self._protocol.send(event) for event in (request, h11.Data(body), h11.EndOfMessage())]
        await self._stream.send_all(b"".join(piece for piece in pieces if piece))
        return self._stream

    async def _event(self) -> object:
        """What h11 makes of what comes next."""
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            assert self._stream  # noqa: S101 - there is one from _send on
            data = await self._stream.receive_some(_PIECE)
            self._received += len(data)
            self._protocol.receive_data(data)
        return event

    def _next(self) -> None:
        """Be ready for another request, on this connection if the other side keeps it."""
        if self._protocol.our_state is self._protocol.their_state is h11.DONE:
            self._protocol.start_next_cycle()
        else:
            self.close()


async def _connect(port: int) -> trio.SocketStream:
    connection = trio.socket.socket()
    try:
        await connection.connect(("127.0.0.1", port))
    except BaseException:
        connection.close()
        raise
    return trio.SocketStream(connection)


def _status(event: object) -> str:
    """`502 Bad Gateway`."""
    if isinstance(event, h11.Response | h11.InformationalResponse):
        return f"{event.status_code} {event.reason.decode('latin-1')}".strip()
    return "something else than a response"
