"""The connection from control: requests in, answers out, in the same epoll set as the bytes.

One control is served at a time; the next one waits in the socket's queue until the present one is gone. Nothing here
blocks: what control does not read is kept, and no further request is served until it has been sent.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from select import EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING, Protocol

from proxy import wire
from proxy.errors import WireError
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.relay.engine import Engine
    from proxy.wire import Message, Request

log = logging.getLogger(__name__)


class Served(Protocol):
    """Who carries the requests out."""

    def serve(self, request: Request, descriptors: Sequence[int]) -> Sequence[Message]:
        """Carry a request out and return the answers. It owns the descriptors. Raises ValueError for what cannot be done."""
        ...

    def control_lost(self) -> None: ...


class Link:
    """Control's connection, and the socket on which it arrives."""

    def __init__(self, engine: Engine, listener: socket.socket, served: Served) -> None:
        self._engine = engine
        self._listener = listener
        self._served = served
        self._control: socket.socket | None = None
        self._outbox: deque[bytes] = deque()
        listener.setblocking(False)

    @property
    def is_connected(self) -> bool:
        return self._control is not None

    def open(self) -> None:
        """Wait for the next control."""
        self._engine.watch(self._listener.fileno(), self._on_listener, EPOLLIN)

    def tell(self, message: Message) -> None:
        """Send something unasked; nobody hears it while control is away."""
        if self._control is not None:
            self._send(message)

    def _on_listener(self, _mask: int) -> None:
        try:
            control, _ = self._listener.accept()
        except BlockingIOError:
            return
        control.setblocking(False)
        self._engine.unwatch(self._listener.fileno())
        self._engine.watch(control.fileno(), self._on_event, EPOLLIN)
        self._control = control
        log.debug("control is connected")
        self._send(wire.Hello(version=wire.VERSION, pid=os.getpid()))

    def _on_event(self, mask: int) -> None:
        if mask & EPOLLOUT:
            self._flush()
        if self._control is not None and mask & ~EPOLLOUT and not self._outbox:
            self._receive(self._control)

    def _receive(self, control: socket.socket) -> None:
        try:
            payload, descriptors, flags, _ = socket.recv_fds(
                control, wire.MAX_MESSAGE, wire.MAX_FDS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        if not payload:
            self._lost(None)
            return
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            log.error("a message from control was cut short", extra=facts(flags=flags))
        self._serve(payload, descriptors)

    def _serve(self, payload: bytes, descriptors: list[int]) -> None:
        try:
            request = wire.decode(payload)
        except WireError as error:
            _close_all(descriptors)
            log.exception("a message that is not understood", extra=facts(error=error.message))
            return
        if not isinstance(request, wire.Request):
            _close_all(descriptors)
            log.error("not a request", extra=facts(message=type(request).__name__))
            return
        try:
            for answer in self._served.serve(request, descriptors):
                self._send(answer)
        except (ValueError, OSError, WireError) as error:
            self._send(wire.Ack(request.seq, error=str(error)))
        except Exception as error:
            log.exception("a request failed", extra=facts(request=type(request).__name__))
            self._send(wire.Ack(request.seq, error=repr(error)))

    def _send(self, message: Message) -> None:
        self._outbox.append(wire.encode(message))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        control = self._control
        if control is None:
            return
        try:
            while self._outbox:
                control.send(self._outbox[0])
                self._outbox.popleft()
        except BlockingIOError:
            self._engine.rewatch(control.fileno(), EPOLLIN | EPOLLOUT)
            return
        except OSError as error:
            self._lost(error)
            return
        self._engine.rewatch(control.fileno(), EPOLLIN)

    def _lost(self, error: OSError | None) -> None:
        control = self._control
        assert control is not None
        self._control = None
        self._outbox.clear()
        self._engine.unwatch(control.fileno())
        control.close()
        log.info("control is gone; relaying goes on", extra=facts(error=error and error.strerror))
        self._served.control_lost()
        self.open()


def _close_all(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)
