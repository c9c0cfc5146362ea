"""Who gets through over TCP, where there is no file mode to say it.

Without tokens, on loopback, everybody on this machine may do everything, and a page elsewhere that makes their browser
ask may do nothing. With tokens nobody may who shows none: in `Authorization: Bearer` (RFC 6750), or in the cookie of
somebody who has signed in. What is not known to be for everybody is for nobody: a path that is spelt in a way that
nobody has thought of is refused like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse

from proxy.api import foreign
from proxy.api.errors import RequestError, error_response
from proxy.api.refusals import address_of
from proxy.core.caller import Caller

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from proxy.api.access import Access
    from proxy.api.refusals import Refusals

CALLER, ROLE = "proxyctl.caller", "proxyctl.role"  # in the scope of a request
LOGIN, LOGOUT = "/login", "/logout"

_READING = ("GET", "HEAD")
_HEALTH = frozenset({"/livez", "/readyz"})

# The page has scripts and styles of its own alone, nobody may frame it, and nobody on the way keeps anything of it.
_CONTENT = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    b"frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = [
    (b"content-security-policy", _CONTENT),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # by "no-referrer" the sign-in form's Origin would be null
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]
_NOT_KEPT = (b"cache-control", b"no-store")


class Guard:
    """Middleware for the TCP listener. `open_paths` are for everybody: what the page is made of, not what it shows."""

    def __init__(self, app: ASGIApp, *, access: Access, open_paths: frozenset[str], refusals: Refusals) -> None:
        self._app = app
        self._refusals = refusals
        self._access = access
        self._anonymous = _HEALTH | ({"/metrics"} if access.metrics_open else frozenset())
        self._open = open_paths | {LOGIN, LOGOUT}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._admit(scope, Headers(scope=scope))
        except RequestError as refusal:
            self._refusals.tell(scope, refusal)
            wants_page = refusal.status == 401 and scope["path"] == "/" and scope["method"] in _READING
            answer = RedirectResponse(LOGIN, 303) if wants_page else error_response(refusal, headers=refusal.headers)
            await answer(scope, receive, _with_headers(send))
        else:
            await self._app(scope, receive, _with_headers(send))

    async def _admit(self, scope: Scope, headers: Headers) -> None:
        """Raise RequestError, or note down in the scope who asks."""
        method, path, access = scope["method"], scope["path"], self._access
        reads = method in _READING
        if path in self._anonymous:
            return  # scrapers and balancers know this machine by any name, and learn no secrets; there is nothing to do
        _refuse(foreign.ambiguous(headers), foreign.wrong_host(headers, only_loopback=access.tokens is None))
        if path in self._open and reads:
            return
        if path != "/":
            _refuse(foreign.foreign_page(headers, must_say=False))
        elif reads and foreign.foreign_page(headers, must_say=False):
            return  # by a link: then no cookie comes along (SameSite=Strict), but with what the page itself asks for
        if path in self._open:
            return
        admitted = await access.identify(headers, address_of(scope))
        if not reads:
            _refuse(foreign.foreign_page(headers, must_say=admitted.right == "page"))
            if admitted.role == "read":
                raise RequestError(
                    403, "read_only", "this token is for reading only", hint="the other one of admin.token_file acts"
                )
            _refuse(foreign.wrong_content_type(headers))
        scope[CALLER] = Caller("tcp", _place(scope), admitted.right)
        scope[ROLE] = admitted.role


def _place(scope: Scope) -> str:
    host, port = scope.get("client") or ("", 0)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refuse(*reasons: RequestError | None) -> None:
    for reason in reasons:
        if reason is not None:
            raise reason


def _with_headers(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", ()))
            kept = [] if any(name == b"cache-control" for name, _ in given) else [_NOT_KEPT]
            message = {**message, "headers": [*given, *_HEADERS, *kept]}
        await send(message)

    return with_headers
