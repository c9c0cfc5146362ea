"""Who may use the API beyond the control socket: secrets in a file of their own, that nobody else may read.

The first line is the token for acting, the second, if there is one, the token for reading only. Empty lines, and those
that begin with #, are for people.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from proxy.config.plain_file import opened

HOW_TO_MAKE = "make one: (umask 077; for i in 1 2; do head -c 32 /dev/urandom | base64; done > {path})"
SHORT = 20  # characters; what is shorter can be guessed

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # what Bearer credentials can be (RFC 6750, section 2.1)
_LARGEST = 64 * 1024  # bytes


class TokenFileError(ValueError):
    """Why a token file must not be used, with no token in it, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Tokens:
    """`act` is for everything, `read` for what changes nothing; an empty one does not exist."""

    act: str
    read: str = ""


def parse(text: str) -> Tokens:
    """Read the content of a token file. Raises ValueError with a sentence, in which no token stands."""
    lines = [line.strip() for line in text.splitlines()]
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens:
        raise ValueError("there is no token in it")
    if len(tokens) > 2:
        raise ValueError("it has more than two tokens: the first is for acting, the second for reading only")
    for token in tokens:
        if not _TOKEN.fullmatch(token):
            raise ValueError("a token is one word of letters, digits and -._~+/=, on a line of its own")
    if len(set(tokens)) < len(tokens):
        raise ValueError("both tokens are the same")
    return Tokens(*tokens)


def read(path: Path) -> Tokens:
    """Read a token file. Raises OSError if that cannot be, TokenFileError if it must not be used."""
    with opened(path) as file:
        _demand_private(os.fstat(file.fileno()), path)
        content = file.read(_LARGEST)
    try:
        return parse(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise TokenFileError("it is not text", HOW_TO_MAKE.format(path=path)) from None
    except ValueError as error:
        raise TokenFileError(str(error), HOW_TO_MAKE.format(path=path)) from error


def _demand_private(found: os.stat_result, path: Path) -> None:
    """Raise TokenFileError if others may know what is in it, or have written it."""
    if found.st_uid not in {0, os.geteuid()}:
        raise TokenFileError(
            f"it belongs to user {found.st_uid}, who is neither root nor the one that this runs as",
            "chown it to the user that runs the proxy; if it is that user's, check as that user (sudo -u)",
        )
    # What systemd hands over is shown as readable by a group, and is not (systemd.exec(5), LoadCredential=).
    if path.parent == Path(os.environ.get("CREDENTIALS_DIRECTORY") or "/nowhere"):
        return
    if mode := stat.S_IMODE(found.st_mode) & 0o077:
        may = "read" if mode & 0o044 else "use"
        raise TokenFileError(f"others may {may} it (mode {stat.S_IMODE(found.st_mode):04o})", f"chmod 600 {path}")
