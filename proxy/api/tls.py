"""TLS for the TCP listener, with a certificate that may be renewed while the proxy runs."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING

from proxy.api.changes import signature
from proxy.config.plain_file import opened
from proxy.errors import UsageError
from proxy.logs import facts

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


class Certificate:
    """`context` is looked at for each connection, and has the files as they are now."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises UsageError if they cannot be used."""
        self._files = (cert, key)
        self._signature = self._look()
        try:
            self._context = _load(cert, key)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise UsageError(
                f"admin.tls_cert {cert} and tls_key {key} cannot be used: {error}",
                hint="`proxyctl check` says more",
            ) from error

    @property
    def context(self) -> ssl.SSLContext:
        """Files that cannot be used, such as one of two that are being replaced, leave it as it was."""
        if (now := self._look()) != self._signature:
            self._signature = now
            try:
                self._context = _load(*self._files)
            except (OSError, ValueError) as error:
                extra = facts(file=self._files[0], reason=error)
                log.error("the certificate cannot be used; the one of before stays in force", extra=extra)
            else:
                log.info("certificate read", extra=facts(file=self._files[0]))
        return self._context

    def _look(self) -> tuple[tuple[int, ...], ...]:
        return tuple(signature(path) for path in self._files)


def _load(cert: Path, key: Path) -> ssl.SSLContext:
    for path in (cert, key):
        opened(path).close()  # the library would wait for somebody to write to a named pipe
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert, key, password=_no_password)
    return context


def _no_password() -> str:
    """Instead of the library's own way, which is to ask on the terminal."""
    raise ValueError("the key has a password")
