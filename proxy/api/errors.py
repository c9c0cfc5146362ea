"""Every error leaves the API in one form: `{"error": {"code", "message", "hint"}}` with a fitting status.

Beside these three keys, a failed reload has `problems` (a list of objects) and a failed start `output` (lines).
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from proxy.errors import ConfigError, ProxyError, StartError
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)


class RequestError(Exception):
    """What only a request over HTTP can get wrong; `status` is the answer's."""

    def __init__(
        self, status: int, code: str, message: str, *, hint: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.headers = headers or {}
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint


class JsonResponse(Response):
    """JSON in ASCII, so that whatever text a user sent can be sent back."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def error_response(error: ProxyError | RequestError, *, headers: Mapping[str, str] | None = None) -> Response:
    body: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
    if isinstance(error, ConfigError):
        body["problems"] = [asdict(problem) for problem in error.problems]
    if isinstance(error, StartError):
        body["output"] = list(error.output)
    return JsonResponse({"error": body}, error.status, headers=headers)


async def on_error(_request: Request, error: Exception) -> Response:
    """Starlette's handler for the errors that are an answer."""
    if not isinstance(error, ProxyError | RequestError):
        raise error
    return error_response(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's handler for what its router refuses: no such path, or not with this method."""
    if not isinstance(error, HTTPException):
        raise error
    path = request.url.path
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        wanted = RequestError(
            405, "method_not_allowed", f"{request.method} is not allowed on {path}", hint=f"allowed: {allowed}"
        )
    elif error.status_code == 404:
        wanted = RequestError(404, "not_found", f"there is no {path}", hint="GET /v1/status shows what runs")
    else:
        wanted = RequestError(error.status_code, "request", error.detail)
    return error_response(wanted, headers=error.headers)


class Crashes:
    """The last resort: a bug in one request is logged and answered with 500; the server goes on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            log.exception("request failed", extra=facts(method=scope.get("method"), path=scope.get("path")))
            if started:
                return  # Hypercorn closes the connection: a cut body is the only way left to say that it failed
            bug = RequestError(
                500,
                "internal",
                f"the proxy failed to answer: {type(error).__name__}",
                hint="connections are not affected; the proxy's log has the details",
            )
            await error_response(bug)(scope, receive, send)
