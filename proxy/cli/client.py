"""Talk to a running proxy: HTTP over its Unix socket, with nothing but the standard library."""

from __future__ import annotations

import json
import os
import pwd
import socket
import struct
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from proxy.cli.where import ROOTS, Where
from proxy.errors import ConfigError, NotRunningError, Problem, ProxyError, StartError, UsageError
from proxy.kernel.unixpath import reachable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Json = dict[str, Any]

PATIENCE = 60.0  # seconds to wait for an answer


class Client:
    """One proxy. Errors that it answers with are raised as the ProxyError they were there; NotRunningError says that
    none answers.
    """

    def __init__(self, where: Where) -> None:
        self.where = where

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def post(self, path: str, body: Json | None = None) -> Any:
        return self._ask("POST", path, body or {})

    def service(self, wanted: str | None) -> str:
        """The service that a verb means: the one asked for, else the only one there is."""
        if wanted:
            return wanted
        services = list(self.get("/v1/status")["services"])
        if len(services) != 1:
            raise UsageError(
                f"this proxy has several services: {', '.join(services)}", hint="say which one with --service"
            )
        return str(services[0])

    def pieces(self, path: str) -> Iterator[bytes]:
        """The body of a long answer, as it comes. Raises NotRunningError if it is cut off."""
        connection = _Connection(self.where, PATIENCE)
        try:
            response = self._response(connection, "GET", path)
            if response.status != 200:
                _raise(response.status, response.read())
            connection.settimeout(None)
            while piece := response.read1(65536):
                yield piece
        except (OSError, HTTPException) as error:
            raise self._gone(error) from error
        finally:
            connection.close()

    def open_stream(self, path: str) -> tuple[socket.socket, HTTPResponse]:
        """Begin an answer that does not end by itself. HTTP/1.0 has no chunks: what is read is the content."""
        stream = _connect(self.where, PATIENCE)
        try:
            stream.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            response = HTTPResponse(stream, method="GET")
            response.begin()
            if response.status != 200:
                _raise(response.status, response.read())
        except (OSError, HTTPException) as error:
            stream.close()
            raise self._gone(error) from error
        except BaseException:
            stream.close()
            raise
        return stream, response

    def pid(self) -> int:
        """The process that listens, as this pid namespace numbers it (SO_PEERCRED, unix(7)); 0 if it is not in it."""
        with _connect(self.where, PATIENCE) as stream:
            credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("3i", credentials)[0])

    def _ask(self, method: str, path: str, body: Json | None = None) -> Any:
        connection = _Connection(self.where, PATIENCE)
        try:
            response = self._response(connection, method, path, body)
            content = response.read()
        except (OSError, HTTPException) as error:
            raise self._gone(error) from error
        finally:
            connection.close()
        if response.status >= 400:
            _raise(response.status, content)
        return json.loads(content)

    def _response(self, connection: HTTPConnection, method: str, path: str, body: Json | None = None) -> HTTPResponse:
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, content, headers)
        return connection.getresponse()

    def _gone(self, error: OSError | HTTPException) -> NotRunningError:
        if isinstance(error, TimeoutError):
            return NotRunningError(
                f"the proxy on {self.where.socket} did not answer within {PATIENCE:g} seconds",
                hint="its log may say why; connections go on meanwhile",
            )
        return NotRunningError(f"the proxy on {self.where.socket} went away before it had answered: {error!r}")


class _Connection(HTTPConnection):
    def __init__(self, where: Where, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._where = where
        self._patience = timeout

    def connect(self) -> None:
        self.sock = _connect(self._where, self._patience)

    def settimeout(self, seconds: float | None) -> None:
        if self.sock:
            self.sock.settimeout(seconds)


def path_of(*parts: str) -> str:
    """A path of the API: `path_of("services", "web", "swap")`."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _connect(where: Where, timeout: float) -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.settimeout(timeout)
    try:
        with reachable(where.socket) as name:
            stream.connect(name)
    except OSError as error:
        stream.close()
        raise _not_running(where, error) from error
    return stream


def _not_running(where: Where, error: OSError) -> NotRunningError:
    if isinstance(error, PermissionError):
        return NotRunningError(
            f"permission denied on the control socket {where.socket} (from {where.source})",
            hint=f"it belongs to {_owner(where.socket)}: run proxyctl as that user, for example with sudo",
        )
    hints = ["start one with `proxyctl run`, or say where it listens with --socket or $PROXYCTL_SOCKET"]
    if os.geteuid() != 0 and where.socket != ROOTS and ROOTS.parent.exists():
        hints.append(f"one that root runs listens on {ROOTS}: sudo proxyctl …")
    reason = "" if isinstance(error, FileNotFoundError | ConnectionRefusedError) else f": {error.strerror or error}"
    return NotRunningError(f"no proxy answers on {where.socket} (from {where.source}){reason}", hint="\n".join(hints))


def _owner(path: Path) -> str:
    """Who owns the socket, or the folder that hides it."""
    for each in (path, *path.parents):
        try:
            uid = each.stat().st_uid
        except OSError:
            continue
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return f"user {uid}"
    return "another user"


def _raise(status: int, content: bytes) -> None:
    """Raise the error that the proxy answered with."""
    try:
        error = json.loads(content)["error"]
        code, message, hint = error["code"], error["message"], error["hint"]
    except (ValueError, KeyError, TypeError):
        raise ProxyError(
            f"the proxy answered with status {status}", hint=content[:200].decode(errors="replace")
        ) from None
    if code == ConfigError.code:
        raise ConfigError([Problem(**problem) for problem in error["problems"]])
    if code == StartError.code:
        raise StartError(message, hint=hint, output=tuple(error["output"]))
    raise _kinds(ProxyError).get(code, UsageError if status == 400 else ProxyError)(message, hint=hint)


def _kinds(kind: type[ProxyError]) -> dict[str, type[ProxyError]]:
    found = {kind.code: kind}
    for each in kind.__subclasses__():
        found |= _kinds(each)
    return found
