"""The files that [admin] names: whether they are what they have to be.

Who checks a config may not be the user that runs the proxy. What only that user may read is not looked into then: `run`
does it again.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from proxy.config import tokens
from proxy.config.findings import Finding
from proxy.config.plain_file import opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxy.config.settings import Admin


def check(admin: Admin) -> Iterator[Finding]:
    """Yield what is wrong with them."""
    if admin.token_file:
        yield from _tokens(admin.token_file)
    if admin.tls_cert and admin.tls_key:
        yield from _certificate(admin.tls_cert, admin.tls_key)


def _tokens(path: Path) -> Iterator[Finding]:
    where = ("admin", "token_file")
    try:
        tokens.read(path)
    except FileNotFoundError:
        yield Finding(where, f"{path} does not exist", tokens.HOW_TO_MAKE.format(path=path))
    except PermissionError:
        return
    except OSError as error:
        yield Finding(where, f"{path} cannot be read: {(error.strerror or str(error)).lower()}")
    except tokens.TokenFileError as error:
        yield Finding(where, f"{path} cannot be used: {error}", error.hint)


def _certificate(cert: Path, key: Path) -> Iterator[Finding]:
    for name, path in (("tls_cert", cert), ("tls_key", key)):
        try:
            opened(path).close()
        except PermissionError:
            return
        except OSError as error:
            yield Finding(("admin", name), f"{path} cannot be read: {(error.strerror or str(error)).lower()}")
            return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        message = f"{cert} and {key} do not go together: {str(reason).replace('_', ' ').lower()}"
        yield Finding(("admin", "tls_cert"), message, "both are PEM files; the key has no password")


def _no_password() -> str:
    """Instead of the library's own way, which is to ask on the terminal."""
    raise ValueError("the key has a password")
