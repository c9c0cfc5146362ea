"""The client's side of a websocket: it says something, waits for the reply, and goes on until it is told to stop."""

from __future__ import annotations

import trio

from proxy.cli.demo import websocket
from proxy.cli.demo.connection import Connection, FailedError

_PAUSE = 0.1  # seconds between a reply and the next message
_PATIENCE = 10.0  # seconds for a reply


class Chat:
    """`version` is the one it talks with; `replies` holds when each was there (trio's time)."""

    def __init__(self, port: int) -> None:
        self.version = ""
        self.failure = "not begun"
        self.replies: list[float] = []
        self.under_way = trio.Event()
        self._port = port
        self._stop = trio.Event()

    async def run(self) -> None:
        """`under_way` is set after the first reply, or when it has failed."""
        connection = Connection(self._port)
        try:
            await self._talk(connection)
            self.failure = ""
        except (FailedError, websocket.WebsocketError) as error:
            self.failure = str(error)
        except trio.TooSlowError:
            self.failure = f"no reply within {_PATIENCE:g} s"
        except trio.BrokenResourceError as error:
            self.failure = str(error.__cause__ or error)
        finally:
            connection.close()
            self.under_way.set()

    def stop(self) -> None:
        """Say goodbye after the next reply."""
        self._stop.set()

    async def _talk(self, connection: Connection) -> None:
        key = websocket.new_key()
        names = {"Sec-WebSocket-Key": key, "Sec-WebSocket-Version": websocket.VERSION}
        stream, headers, early = await connection.upgrade(
            "/socket", {"Upgrade": "websocket", "Connection": "Upgrade", **names}
        )
        if headers.get("sec-websocket-accept") != websocket.accept_key(key):
            raise FailedError("the handshake was not answered as RFC 6455 wants it")
        self.version = headers.get("x-version", "?")
        line = _Line(stream, early)
        while not self._stop.is_set():
            text = f"message {len(self.replies) + 1}"
            await line.send(websocket.TEXT, text.encode())
            frame = await line.receive()
            if frame != (websocket.TEXT, f"{self.version}: {text}".encode()):
                raise FailedError(f"{text!r} was answered with {frame.payload!r}")
            self.replies.append(trio.current_time())
            self.under_way.set()
            with trio.move_on_after(_PAUSE):
                await self._stop.wait()
        await line.send(websocket.CLOSE, websocket.CLOSE_NORMAL)
        if (await line.receive()) != (websocket.CLOSE, websocket.CLOSE_NORMAL):
            raise FailedError("the goodbye was not answered")


class _Line:
    """Frames over a stream."""

    def __init__(self, stream: trio.SocketStream, early: bytes) -> None:
        self._stream = stream
        self._frames = websocket.Frames(masked=False)
        self._frames.feed(early)

    async def send(self, opcode: int, payload: bytes) -> None:
        await self._stream.send_all(websocket.encode(opcode, payload, masked=True))

    async def receive(self) -> websocket.Frame:
        with trio.fail_after(_PATIENCE):
            while not (frame := self._frames.take()):
                data = await self._stream.receive_some()
                if not data:
                    raise FailedError("closed by the other side")
                self._frames.feed(data)
        return frame
