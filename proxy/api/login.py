"""Sign in with a token, and out again: a form and a cookie, for people."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.responses import HTMLResponse, RedirectResponse, Response

from proxy.api import body, page, session
from proxy.api.errors import RequestError
from proxy.api.guard import LOGIN
from proxy.api.refusals import address_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from proxy.api.access import Access
    from proxy.api.refusals import Refusals

_FORM = "application/x-www-form-urlencoded"
_PLACE = "<!-- what went wrong -->"


class Login:
    """Its page says what went wrong; it works without scripts."""

    def __init__(self, access: Access, refusals: Refusals) -> None:
        self._access = access
        self._refusals = refusals

    async def form(self, _request: Request) -> Response:
        return RedirectResponse("/", 303) if self._access.tokens is None else _page()

    async def enter(self, request: Request) -> Response:
        tokens = self._access.tokens
        if tokens is None:
            return RedirectResponse("/", 303)
        try:
            token = _token(request.headers.get("content-type", ""), await body.received(request))
            role = await self._access.role_of_token(token, address_of(request.scope))
        except RequestError as error:
            self._refusals.tell(request.scope, error)
            return _page(error)
        return self._with_cookie("/", session.issue(role, tokens.current))

    async def leave(self, _request: Request) -> Response:
        return self._with_cookie(LOGIN, "")

    def _with_cookie(self, target: str, value: str) -> Response:
        access = self._access
        cookie = session.header(access.cookie, value, is_secure=access.is_secure)
        return RedirectResponse(target, 303, headers={"Set-Cookie": cookie})


def _token(content_type: str, content: bytes) -> str:
    if content_type.partition(";")[0].strip().lower() != _FORM:
        raise RequestError(415, "content_type", f"this is for a form: {_FORM}")
    try:
        found = parse_qs(content.decode("latin-1"), max_num_fields=10).get("token", [""])
    except ValueError as error:
        raise RequestError(400, "usage", f"this is not what the form sends: {error}") from error
    return found[0].strip()


def _page(error: RequestError | None = None) -> Response:
    text = (page.FOLDER / "login.html").read_text()
    if error is None:
        return HTMLResponse(text)
    said = f"{error.message}; {error.hint}" if error.status == 429 else error.message
    text = text.replace(_PLACE, f'<p class="error" role="alert">{html.escape(said.capitalize())}.</p>')
    return HTMLResponse(text, error.status, headers=error.headers)
