"""The tokens that are in force: what the file says now, so that they can be changed without a restart."""

from __future__ import annotations

import hashlib
import hmac
import logging
from typing import TYPE_CHECKING, Literal

from proxy.api.changes import signature
from proxy.config import tokens
from proxy.errors import UsageError
from proxy.logs import facts

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.tokens import Tokens

Role = Literal["act", "read"]

log = logging.getLogger(__name__)


class TokenFile:
    """A file that is looked at again whenever it has changed. While it cannot be used, what it said before holds."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError if the file cannot be used."""
        self._path = path
        self._signature = signature(path)
        try:
            self._tokens = tokens.read(path)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"admin.token_file {path} cannot be used: {_reason(error)}",
                hint=getattr(error, "hint", "") or "`proxyctl check`, as the user that runs the proxy, says more",
            ) from error

    @property
    def current(self) -> Tokens:
        if (now := signature(self._path)) != self._signature:
            self._signature = now
            try:
                self._tokens = tokens.read(self._path)
            except (OSError, ValueError) as error:
                extra = facts(file=self._path, reason=_reason(error))
                log.error("the token file cannot be used; the tokens of before stay in force", extra=extra)
            else:
                log.info("tokens read", extra=facts(file=self._path))
        return self._tokens

    def role_of(self, given: str) -> Role | None:
        """What somebody may do who shows this token. Takes the same time, however much of it is right."""
        known, digest = self.current, _digest(given)
        acts = hmac.compare_digest(digest, _digest(known.act))
        reads = hmac.compare_digest(digest, _digest(known.read))
        return "act" if acts else "read" if reads and known.read else None


def _digest(token: str) -> bytes:
    """All of one length, which compare_digest would give away otherwise."""
    return hashlib.sha256(token.encode()).digest()


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
