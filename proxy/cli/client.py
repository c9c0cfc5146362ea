"""Talk to a running proxy: HTTP over its Unix socket, with nothing but the standard library."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from proxy.cli.http import Answer, ask
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

    def __init__(self, where: Where, patience: float = PATIENCE) -> None:
        """`patience`: how many seconds it waits for an answer."""
        self.where = where
        self._patience = patience

    def within(self, seconds: float) -> Client:
        """The same proxy, asked by somebody who does not wait for longer than that."""
        return Client(self.where, seconds)

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
        with self._connect() as stream:
            try:
                with ask(stream, "GET", path) as answer:
                    _check(answer)
                    yield from answer.pieces()
            except OSError as error:
                raise self._gone(error) from error

    def open_stream(self, path: str) -> tuple[socket.socket, Answer]:
        """Begin an answer that does not end by itself; what is read from the socket after it is the content."""
        with contextlib.ExitStack() as on_error:
            stream = on_error.enter_context(self._connect())
            try:
                answer = on_error.enter_context(ask(stream, "GET", path, version="1.0"))
                _check(answer)
            except OSError as error:
                raise self._gone(error) from error
            on_error.pop_all()
            return stream, answer

    def pid(self) -> int:
        """The process that listens, as this pid namespace numbers it (SO_PEERCRED, unix(7)); 0 if it is not in it."""
        with self._connect() as stream:
            credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("3i", credentials)[0])

    def _ask(self, method: str, path: str, body: Json | None = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        with self._connect() as stream:
            try:
                with ask(stream, method, path, content) as answer:
                    _check(answer)
                    content = answer.read()
            except OSError as error:
                raise self._gone(error) from error
        try:
            return json.loads(content)
        except ValueError as error:
            raise ProxyError(f"what answers on {self.where.socket} is not a proxyctl proxy: {error}") from error

    def _connect(self) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(self._patience)
        try:
            with reachable(self.where.socket) as name:
                stream.connect(name)
        except OSError as error:
            stream.close()
            raise _not_running(self.where, error) from error
        return stream

    def _gone(self, error: OSError) -> NotRunningError:
        if isinstance(error, TimeoutError):
            return NotRunningError(
                f"the proxy on {self.where.socket} did not answer within {self._patience:g} seconds",
                hint="its log may say why; connections go on meanwhile",
            )
        return NotRunningError(
            f"the proxy on {self.where.socket} went away before it had answered ({error.strerror or error})"
        )


def path_of(*parts: str) -> str:
    """A path of the API: `path_of("services", "web", "swap")`."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


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
        import pwd  # noqa: PLC0415 - only for this error

        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return f"user {uid}"
    return "another user"


def _check(answer: Answer) -> None:
    """Raise the error that the proxy answered with, if it is one."""
    status = answer.status
    if status < 400:
        return
    content = answer.read()
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
