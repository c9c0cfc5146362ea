"""One health check: is it well, and if not, why not."""

from __future__ import annotations

import errno
import http
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import h11
import trio

from proxy.control import command_check
from proxy.core.duration import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config.settings import Health
    from proxy.core.address import Address
    from proxy.core.template import Values

_MAX_HEAD = 16 * 1024  # bytes of an HTTP response head
_MAX_BODY = 64 * 1024  # read only so that the backend is not cut off while it answers
_BODY_TIME = 0.1  # seconds


@dataclass(frozen=True)
class Subject:
    """What is checked, and what a check command is told of it. `address` has no host name left to look up; `host` is
    what an HTTP check asks for, where that is not the address.
    """

    address: Address
    values: Values
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = Path()
    host: str = ""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`reason` says why it is not healthy."""

    healthy: bool
    reason: str = ""


async def check(health: Health, subject: Subject) -> CheckResult:
    """Check once. Raises nothing but Cancelled: whatever goes wrong is the reason of a failed check."""
    with trio.move_on_after(health.timeout):
        try:
            reason = await _reason(health, subject)
        except OSError as error:
            reason = _explained(error)
        return CheckResult(healthy=not reason, reason=reason)
    return CheckResult(healthy=False, reason=f"no answer within {format_duration(health.timeout)}")


async def _reason(health: Health, subject: Subject) -> str:
    match health.type:
        case "tcp":
            await (await _connect(subject.address)).aclose()
            return ""
        case "http":
            return await _http(health, subject)
        case "command":
            return await command_check.run(health.command, subject)
        case "none":
            await trio.lowlevel.checkpoint()
            return ""


async def _connect(address: Address) -> trio.SocketStream:
    socket = trio.socket.socket(address.family)
    try:
        await socket.connect(address.sockaddr)
        # A TCP socket can connect to itself when nobody listens (RFC 9293, 3.5, simultaneous open). And a Unix
        # socket whose peer's queue is full has no peer here: connect(2) says EAGAIN, which trio takes for success.
        if socket.getpeername() == socket.getsockname() and not address.is_unix:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself")
        return trio.SocketStream(socket)
    except BaseException:
        socket.close()
        raise


async def _http(health: Health, subject: Subject) -> str:
    """GET the path; returns why the answer is not a healthy one."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    host = subject.host or ("localhost" if subject.address.is_unix else str(subject.address))
    headers = [("Host", host), ("User-Agent", "proxyctl"), ("Accept", "*/*"), ("Connection", "close")]
    async with await _connect(subject.address) as stream:
        try:
            request = connection.send(h11.Request(method="GET", target=health.path, headers=headers))
            await stream.send_all((request or b"") + (connection.send(h11.EndOfMessage()) or b""))
            response = await _response(connection, stream)
        except h11.RemoteProtocolError as error:
            return f"not an HTTP answer: {error}"
        except trio.BrokenResourceError:
            return "closed the connection without an answer"
        await _take_body(stream)
    code = response.status_code
    return "" if code in health.status else f"HTTP {code} {_phrase(response)}".rstrip()


async def _response(connection: h11.Connection, stream: trio.SocketStream) -> h11.Response:
    """The answer's head; informational ones (1xx) that come before it are passed over."""
    while not isinstance(event := connection.next_event(), h11.Response):
        if event is h11.NEED_DATA:
            data = await stream.receive_some(_MAX_HEAD)
            if not data:
                raise trio.BrokenResourceError
            connection.receive_data(data)
    return event


async def _take_body(stream: trio.SocketStream) -> None:
    """Let the backend finish: closing on unread data resets the connection, and fills its log with errors."""
    left = _MAX_BODY
    with trio.move_on_after(_BODY_TIME):
        try:
            while left > 0 and (data := await stream.receive_some(left)):
                left -= len(data)
        except trio.BrokenResourceError:
            pass  # the answer has come; how the connection ends is no part of it


def _phrase(response: h11.Response) -> str:
    sent = response.reason.decode("latin-1").strip()[:80]
    try:
        return sent or http.HTTPStatus(response.status_code).phrase
    except ValueError:
        return ""


def _explained(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "there is no such socket yet"
    if error.errno == errno.ENOTCONN:
        return "its queue of waiting connections is full"
    return (os.strerror(error.errno) if error.errno else str(error)).lower()
