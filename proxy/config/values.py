"""From what TOML holds to what the settings promise.

Each function takes one raw value and raises BadValueError, or a ValueError with a sentence, if it cannot be used.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import stat
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING

from proxy.config.marks import Marks
from proxy.config.suggest import listed, suggest
from proxy.core import placeholders
from proxy.core.address import Address
from proxy.core.statuses import StatusRanges

if TYPE_CHECKING:
    from pydantic import ValidationInfo

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_FOR_STOPPING = {"SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGCONT", "SIGCHLD"}


class BadValueError(ValueError):
    """A value that cannot be used: a sentence, and a hint where there is one. Pydantic carries it to the loader."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def text(value: object) -> str:
    if not isinstance(value, str):
        raise BadValueError("expected a string", _quote(value))
    if "\0" in value:
        raise BadValueError("a NUL byte cannot be passed to a program or be part of a path")
    return value


def whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        number = value if isinstance(value, str) else ""
        raise BadValueError("expected a whole number", f"write {number} without quotes" if number.isdecimal() else "")
    return value


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        word = value.lower() if isinstance(value, str) else ""
        raise BadValueError(
            "expected true or false", f"write {word} without quotes" if word in {"true", "false"} else ""
        )
    return value


def choice(value: object, *, known: tuple[str, ...]) -> str:
    word = text(value)
    if word in known:
        return word
    meant = suggest(word, known)
    raise BadValueError(f'"{word}" is not one of {listed(known)}', f'did you mean "{meant}"?' if meant else "")


def signal_at(value: object) -> str | None:
    """None: the data path decides."""
    return None if value is None or value == "" else choice(value, known=("end", "start"))


def several(value: object) -> object:
    """One string stands for a list of one."""
    if isinstance(value, str | Address):
        return (value,)
    if isinstance(value, list | tuple):
        return tuple(value)
    raise BadValueError("expected a string or a list of strings", _quote(value))


def listen_address(value: object) -> Address:
    return value if isinstance(value, Address) else Address.parse(text(value))


def backend_address(value: object) -> Address:
    address = value if isinstance(value, Address) else Address.parse(text(value), names=True)
    if not address.is_unix and address.port == 0:
        raise BadValueError(
            "a backend's address needs its port", "port 0 asks the kernel to choose, which works only in listen"
        )
    return address


def admin_address(value: object) -> Address | None:
    """Whether it may be one that others can reach is for checks.py to say, which knows the other keys."""
    if value is None or value == "":
        return None
    address = listen_address(value)
    if address.is_unix:
        raise BadValueError("expected host:port", "the Unix socket is admin.socket, which is always there")
    return address


def absolute_path(value: object, info: ValidationInfo) -> Path:
    """A relative path is relative to the config's folder."""
    path = value if isinstance(value, Path) else Path(text(value))
    if str(path).startswith("~"):
        raise BadValueError('"~" is not expanded here', "write the whole path")
    folder: Path = (info.context or {}).get("folder") or Path.cwd()
    return folder / path


def maybe_path(value: object, info: ValidationInfo) -> Path | None:
    return None if value is None or value == "" else absolute_path(value, info)


def folder_path(value: object, info: ValidationInfo) -> Path:
    path = absolute_path(value, info)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise BadValueError(f"{path} does not exist", "a relative cwd starts at the config file's folder") from error
    except OSError as error:
        raise BadValueError(f"{path} cannot be used: {(error.strerror or str(error)).lower()}") from error
    if not stat.S_ISDIR(mode):
        raise BadValueError(f"{path} is not a folder")
    return path


def name(value: object, *, kind: str = "name") -> str:
    """A service's or version's name: safe as a file name, a metric label and a command line argument."""
    word = text(value)
    if NAME.fullmatch(word):
        return word
    proper = re.sub(r"[^A-Za-z0-9._+-]+", "-", word).strip("-._+")[:64]
    raise BadValueError(
        f'"{word}" cannot be a {kind}: use letters, digits and ._+- (at most 64, the first a letter or digit)',
        f'for example "{proper}"' if proper else "",
    )


def command(value: object) -> tuple[str, ...]:
    """A list of arguments, or a string that is split as a shell would split it (no shell runs)."""
    if isinstance(value, str):
        try:
            words = shlex.split(text(value))
        except ValueError as error:
            raise BadValueError(f"the quotes do not match ({error})", "or write it as a list of strings") from error
    elif isinstance(value, list | tuple):
        words = [_argument(word) for word in value]
    else:
        raise BadValueError('expected a list of strings like ["./app", "--port", "{port}"], or a string')
    if words and not words[0]:
        raise BadValueError("the first word of a command is the program, and it is empty")
    if words and re.match(r"[A-Za-z_]\w*=", words[0]):
        raise BadValueError(
            f'"{words[0]}" is not a program: no shell reads the command', "set variables in the version's env table"
        )
    for word in words:
        check_placeholders(word)
    return tuple(words)


def check_placeholders(word: str) -> None:
    """Raise BadValueError for a placeholder that is misspelt. Words unlike any known one may belong to the program."""
    for unknown in sorted(placeholders.used([word]).difference(placeholders.KNOWN)):
        if meant := suggest(unknown, placeholders.KNOWN):
            known = ", ".join("{" + each + "}" for each in placeholders.KNOWN)
            raise BadValueError(f"unknown placeholder {{{unknown}}}", f"did you mean {{{meant}}}? There are {known}")


def variable(value: object) -> str:
    word = text(value)
    if not _VARIABLE.fullmatch(word):
        raise BadValueError(
            f'"{word}" cannot name an environment variable', "use letters, digits and _, no digit first"
        )
    return word


def variable_value(value: object) -> str:
    if isinstance(value, bool | int | float):
        raise BadValueError("a variable's value is a string", _quote(value))
    check_placeholders(word := text(value))
    return word


def stop_signal(value: object) -> Signals:
    word = value.name if isinstance(value, Signals) else text(value)
    known = {signal.name for signal in Signals} - _NOT_FOR_STOPPING
    if word in known:
        return Signals[word]
    full = "SIG" + word.upper().removeprefix("SIG")
    meant = full if full in known else suggest(full, known)
    kind = "does not end a process" if word in _NOT_FOR_STOPPING else "is not the name of a signal"
    raise BadValueError(
        f'"{word}" {kind}', f'did you mean "{meant}"?' if meant else 'for example "SIGTERM" or "SIGINT"'
    )


def statuses(value: object) -> StatusRanges:
    if isinstance(value, StatusRanges):
        return value
    return StatusRanges.parse(str(value) if type(value) is int else text(value))


def mark_range(value: object) -> Marks:
    return value if isinstance(value, Marks) else Marks.parse(text(value))


def request_path(value: object) -> str:
    path = text(value)
    if not path.startswith("/"):
        raise BadValueError(f'a request path starts with "/": "/{path}"')
    if not path.isascii() or not path.isprintable() or " " in path or "#" in path:
        raise BadValueError(
            'a request path has no spaces, "#" or other characters than ASCII', "percent-encode them (RFC 3986)"
        )
    return path


def user(value: object) -> str:
    """A user of this machine, by name or number. Only root may start processes as someone else."""
    if not (word := text(value)):
        return word
    try:
        entry = pwd.getpwuid(int(word)) if word.isdecimal() else pwd.getpwnam(word)
    except (KeyError, ValueError, OverflowError):
        meant = suggest(word, (entry.pw_name for entry in pwd.getpwall()))
        raise BadValueError(f'this machine has no user "{word}"', f'did you mean "{meant}"?' if meant else "") from None
    if os.geteuid() not in {0, entry.pw_uid}:
        raise BadValueError("only root can start backends as another user", "run the proxy as root, or remove this key")
    return word


def _argument(value: object) -> str:
    if isinstance(value, bool | int | float):
        raise BadValueError("every item of a command is a string", _quote(value))
    return text(value)


def _quote(value: object) -> str:
    if isinstance(value, bool):
        return f'put it in quotes: "{str(value).lower()}"'
    return f'put it in quotes: "{value}"' if isinstance(value, int | float) else ""
