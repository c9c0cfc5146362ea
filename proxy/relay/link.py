"""The connection from control: requests in, answers out, in the same epoll set as the bytes.

Nothing here blocks: what control does not read is kept, and no further request is served until it has been sent.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
from collections import deque
from select import EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING, Protocol

from proxy import __version__, wire
from proxy.errors import WireError
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.relay.engine import Engine
    from proxy.wire import Message, Request

log = logging.getLogger(__name__)

_UCRED = struct.Struct("iII")  # pid, uid, gid: what SO_PEERCRED gives (unix(7))


class Reply(Protocol):
    """How a request is answered, at once or later. Nobody hears it once the control that asked has gone."""

    def __call__(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message, and copies of these descriptors with it. Raises OSError where there can be no copies."""
        ...


class Served(Protocol):
    """Who carries the requests out."""

    def serve(self, request: Request, descriptors: Sequence[int], reply: Reply) -> None:
        """Carry a request out and answer it, with the Ack last. What takes its time is answered when it is through.

        The descriptors are only lent. Raises ValueError or OSError for what cannot be done.
        """
        ...

    def control_lost(self) -> None:
        """Go on without control."""
        ...


class Door:
    """The listening socket on which control arrives. One is let in at a time; the next one waits in the queue."""

    def __init__(self, engine: Engine, listener: socket.socket, served: Served) -> None:
        self._engine = engine
        self._listener = listener
        self._served = served
        self._link: Link | None = None
        listener.setblocking(False)
        engine.watch(listener.fileno(), self, EPOLLIN)

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    def tell(self, message: Message) -> None:
        """Send something unasked; nobody hears it while control is away."""
        if self._link is not None:
            self._link.send(message)

    def close(self) -> None:
        """Leave the control that is there."""
        if self._link is not None:
            self._link.close()

    def on_event(self, _mask: int) -> None:
        try:
            control, _ = self._listener.accept()
        except OSError:  # it is gone again, or there is no descriptor left; then the next event comes when there is one
            return
        _pid, uid, _gid = _UCRED.unpack(control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in {os.geteuid(), 0}:  # an address without a file has no mode that would keep others out
            log.warning("somebody else is not let in", extra=facts(uid=uid))
            control.close()
            return
        self._engine.unwatch(self._listener.fileno())
        self._link = Link(self._engine, control, self._served, self._lost)
        self._link.send(wire.Hello(version=wire.VERSION, pid=os.getpid(), release=__version__))

    def fail(self, error: Exception) -> None:
        log.error("control could not be let in", exc_info=error)

    def _lost(self) -> None:
        self._link = None
        self._served.control_lost()
        self._engine.watch(self._listener.fileno(), self, EPOLLIN)


class Link:
    """A connection from control, until it is gone; then `lost` is called."""

    def __init__(self, engine: Engine, control: socket.socket, served: Served, lost: Callable[[], None]) -> None:
        self._engine = engine
        self._control = control
        self._served = served
        self._lost = lost
        self._outbox: deque[tuple[bytes, list[int]]] = deque()
        self._is_serving = False  # a request, whose answers go when everything of it is done
        self._is_closed = False
        control.setblocking(False)
        engine.watch(control.fileno(), self, EPOLLIN)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message, when there is room for it. Raises WireError for one that is too long."""
        if self._is_closed:
            return
        self._outbox.append((wire.encode(message), _copies(descriptors)))
        if len(self._outbox) == 1 and not self._is_serving:
            self._flush()

    def on_event(self, mask: int) -> None:
        if mask & EPOLLOUT:
            self._flush()
        elif not self._outbox:
            self._receive()

    def fail(self, error: Exception) -> None:
        log.error("the link to control failed", exc_info=error)
        self._close()

    def _flush(self) -> None:
        try:
            while self._outbox:
                payload, descriptors = self._outbox[0]
                socket.send_fds(self._control, [payload], descriptors)
                self._outbox.popleft()
                _close_all(descriptors)
        except BlockingIOError:
            self._engine.rewatch(self._control.fileno(), EPOLLOUT)
            return
        except OSError:  # control is gone; reading says so
            self._drop()
        self._engine.rewatch(self._control.fileno(), EPOLLIN)

    def _drop(self) -> None:
        """Give up what is still to be sent."""
        for _payload, descriptors in self._outbox:
            _close_all(descriptors)
        self._outbox.clear()

    def _receive(self) -> None:
        try:
            payload, descriptors, _flags, _ = socket.recv_fds(
                self._control, wire.MAX_MESSAGE, wire.MAX_FDS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            payload, descriptors = b"", []
        if payload:
            self._serve(payload, descriptors)
        else:
            self._close()

    def _serve(self, payload: bytes, descriptors: list[int]) -> None:
        self._is_serving = True
        try:
            request = wire.decode(payload)
            if not isinstance(request, wire.Request):
                raise WireError(f"{type(request).__name__} is not a request")
            self._served.serve(request, descriptors, self.send)
        except (ValueError, OSError, WireError) as error:
            log.warning("a request could not be served", extra=facts(request=payload[:200], error=error))
            self.send(wire.Ack(_number(payload), error=str(error)))
        except Exception as error:
            log.exception("a request failed", extra=facts(request=payload[:200]))
            self.send(wire.Ack(_number(payload), error=repr(error)))
        finally:
            self._is_serving = False
            _close_all(descriptors)
        self._flush()

    def _close(self) -> None:
        log.info("control is gone; relaying goes on")
        self.close()
        self._lost()

    def close(self) -> None:
        self._is_closed = True
        self._drop()
        self._engine.unwatch(self._control.fileno())
        self._control.close()


def _number(payload: bytes) -> int:
    """Return the number of a request, even one of another version, or 0 if it has none."""
    try:
        number = json.loads(payload)["seq"]
    except (ValueError, TypeError, KeyError):
        return 0
    return number if isinstance(number, int) else 0


def _copies(descriptors: Sequence[int]) -> list[int]:
    """Return a copy of each, or raise OSError and leave none."""
    copies: list[int] = []
    try:
        for fd in descriptors:
            copies.append(os.dup(fd))  # noqa: PERF401  # those made before an error are to be closed
    except OSError:
        _close_all(copies)
        raise
    return copies


def _close_all(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        os.close(fd)
