"""The cookie of somebody who has signed in on the page: until when it is good, and for what, under a seal.

Nothing is kept of it here, so that it outlives a restart and an upgrade of the proxy. The seal's key comes from the
tokens: with other tokens, every cookie of before is void.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from proxy.api.tokens import Role
    from proxy.config.tokens import Tokens

LIFETIME = 12 * 3600  # seconds: a working day


def issue(role: Role, tokens: Tokens) -> str:
    """The value of a cookie that is good from now on."""
    text = f"{role}.{int(time.time()) + LIFETIME}"
    return f"{text}.{_seal(text, tokens)}"


def role_of(value: str, tokens: Tokens) -> Role | None:
    """What a cookie is good for. Raises ValueError if its seal is not ours; None: it was, and is no longer."""
    text, _, seal = value.rpartition(".")
    if not hmac.compare_digest(seal.encode(), _seal(text, tokens).encode()):
        raise ValueError("not a cookie of ours")
    role, _, ends = text.partition(".")
    return cast("Role", role) if int(ends) > time.time() else None


def header(name: str, value: str, *, is_secure: bool) -> str:
    """A Set-Cookie field (RFC 6265). No script can read the cookie, and no page elsewhere makes a browser send it. An
    empty value takes it back.
    """
    lifetime = LIFETIME if value else 0
    secure = "; Secure" if is_secure else ""
    return f"{name}={value}; Max-Age={lifetime}; Path=/; HttpOnly; SameSite=Strict{secure}"


def _seal(text: str, tokens: Tokens) -> str:
    key = hashlib.sha256(f"proxyctl session {tokens.act} {tokens.read}".encode()).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
