"""What somebody may do at a TCP listener, by what they show: a token, or the cookie that they got for one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from proxy.api import session
from proxy.api.errors import RequestError
from proxy.api.slowdown import Slowdown

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from proxy.api.tokens import Role, TokenFile

NEEDED = "a token is needed"


class Admitted(NamedTuple):
    """`right` says by what somebody has the role: "token", "page" (signed in there) or "loopback"."""

    role: Role
    right: str


@dataclass(frozen=True)
class Access:
    """What the config says of who may use a listener. `tokens` None: everybody who gets there, since that takes to be
    on this machine. `cookie` is the name of the page's cookie; it is of one proxy, as cookies know no ports.
    """

    tokens: TokenFile | None = None
    metrics_open: bool = True
    allow_commands: bool = False
    is_secure: bool = False
    cookie: str = "proxyctl"
    slowdown: Slowdown = field(default_factory=Slowdown)

    async def identify(self, headers: Headers, address: str) -> Admitted:
        """Raises RequestError: 401, or 429 where too many attempts from that address were wrong."""
        if self.tokens is None:
            return Admitted("act", "loopback")
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme:
            if scheme.lower() != "bearer":
                raise _unauthorized("only Bearer tokens are known here")
            return Admitted(await self.role_of_token(credentials.strip(), address), "token")
        if cookie := _cookie(headers, self.cookie):
            return Admitted(self._role_of_cookie(self.tokens, cookie), "page")
        raise _unauthorized(NEEDED)

    async def role_of_token(self, token: str, address: str) -> Role:
        """What somebody may do who shows this token. Raises RequestError as `identify` does, after a while."""
        self._welcome(address)
        if self.tokens and (role := self.tokens.role_of(token)):
            return role
        await self.slowdown.failed(address)
        raise _unauthorized("the token is not right")

    def _role_of_cookie(self, tokens: TokenFile, cookie: str) -> Role:
        """Its seal cannot be guessed, so whoever has one neither waits nor is kept out by what others try from there:
        behind a proxy with TLS everybody comes from one address. And who has an old one has not tried anything.
        """
        try:
            role = session.role_of(cookie, tokens.current)
        except ValueError:  # made up, or from before the tokens were changed
            role = None
        if role is None:
            raise _unauthorized("you are not signed in any more")
        return role

    def _welcome(self, address: str) -> None:
        if seconds := self.slowdown.refuses(address):
            raise RequestError(
                429,
                "slow_down",
                "too many attempts with a wrong token came from there",
                hint=f"try again in {seconds} s",
                headers={"Retry-After": str(seconds)},
            )


def _unauthorized(message: str) -> RequestError:
    hint = "send Authorization: Bearer TOKEN, with a token of admin.token_file; or sign in at /login"
    headers = {"WWW-Authenticate": 'Bearer realm="proxyctl"'}
    return RequestError(401, "unauthorized", message, hint=hint, headers=headers)


def _cookie(headers: Headers, name: str) -> str:
    """RFC 6265, section 4.2: pairs with semicolons between them. Empty if there is none of that name."""
    pairs = (pair.strip().partition("=") for text in headers.getlist("cookie") for pair in text.split(";"))
    return next((value for given, _, value in pairs if given == name), "")
