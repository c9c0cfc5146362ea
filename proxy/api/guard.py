"""What may come in over TCP, where there is no file mode to say who may ask.

A page in somebody's browser can send requests to loopback. Three things give it away or stop it: the name it had to use
for this machine (Host; that also ends DNS rebinding), where it comes from (Origin, Sec-Fetch-Site), and that it cannot
send `application/json` to another site without asking first, which nothing here ever allows (Fetch Standard, "CORS
protocol").
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from proxy.api.errors import RequestError, error_response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

_READING = ("GET", "HEAD", "OPTIONS")
_OWN_PAGE = ("same-origin", "none")  # "none": typed into the address bar


class Guard:
    """Middleware for the TCP listener: refuse with 403 or 415 what a foreign page could have made a browser send."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = refuse(scope["method"], scope["path"], Headers(scope=scope)) if scope["type"] == "http" else None
        await (error_response(refusal) if refusal else self._app)(scope, receive, send)


def refuse(method: str, path: str, headers: Mapping[str, str]) -> RequestError | None:
    """Return why a request over TCP is refused, or None. Header names are in lower case.

    Metrics and health checks are asked for under whatever name a scraper knows this machine by, and tell no secrets.
    """
    host = headers.get("host", "")
    if path.startswith("/v1/") and not _is_loopback(host):
        return _forbidden(f'the Host header says "{host}"', "use 127.0.0.1, [::1] or localhost")
    if method in _READING:
        return None
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return _forbidden(f'a page of "{origin}" asked', "only this proxy's own pages may change anything")
    site = headers.get("sec-fetch-site")
    if site is not None and site not in _OWN_PAGE:
        return _forbidden(f"a {site} page asked", "only this proxy's own pages may change anything")
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        return RequestError(
            415,
            "content_type",
            f'the Content-Type is "{content_type}"',
            hint="send Content-Type: application/json, also without a body",
        )
    return None


def _forbidden(message: str, hint: str) -> RequestError:
    return RequestError(403, "forbidden", message, hint=hint)


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
