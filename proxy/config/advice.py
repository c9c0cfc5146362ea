"""What is valid but probably not meant: `proxyctl check` warns about it."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from typing import TYPE_CHECKING

from proxy.config import tokens
from proxy.config.findings import Finding, dotted
from proxy.config.settings import Admin
from proxy.config.shortcuts import shortcut
from proxy.core import placeholders

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxy.config.positions import Path
    from proxy.config.settings import Service, Settings, Version

_SHELL_WORDS = {"&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1", "2>"}


def advise(settings: Settings) -> Iterator[Finding]:
    """Yield a Finding for everything that is worth a second look."""
    yield from _admin(settings.admin)
    for service in settings.services.values():
        path: Path = ("services", service.name)
        yield from _service(path, service)
        for version in service.versions.values():
            yield from _version((*path, "versions", version.name), version)


def _admin(admin: Admin) -> Iterator[Finding]:
    if admin.listen is None:
        for key in ("token_file", "tls_cert", "metrics", "allow_commands"):
            if key in admin.model_fields_set and getattr(admin, key) != Admin.model_fields[key].default:
                message = "this has no effect without admin.listen: the control socket has its mode"
                yield Finding(("admin", key), message, 'for example listen = "127.0.0.1:9900"', at_key=True)
        return
    if not admin.listen.is_loopback and not admin.tls_cert:
        message = f"{admin.listen} is reached without TLS: whoever is on the way can read the tokens, and use them"
        yield Finding(("admin", "listen"), message, "set tls_cert and tls_key")
    if admin.tls_key:
        with contextlib.suppress(OSError):
            if admin.tls_key.stat().st_mode & stat.S_IROTH:
                message = f"everybody on this machine may read {admin.tls_key}, and be taken for this proxy"
                yield Finding(("admin", "tls_key"), message, f"chmod 600 {admin.tls_key}")
    if admin.token_file:
        with contextlib.suppress(OSError, ValueError):  # what is wrong with the file is said elsewhere
            known = tokens.read(admin.token_file)
            if min(len(token) for token in (known.act, known.read) if token) < tokens.SHORT:
                message = f"a token in {admin.token_file} is shorter than {tokens.SHORT} characters, and can be guessed"
                yield Finding(("admin", "token_file"), message, tokens.HOW_TO_MAKE.format(path=admin.token_file))


def _service(path: Path, service: Service) -> Iterator[Finding]:
    understood = service.protocol == "http"
    if "http" in service.model_fields_set and not understood:
        message = 'this has no effect: requests are not understood with protocol "tcp"'
        yield Finding((*path, "http"), message, f'set protocol = "http" in [{dotted(path)}], or remove it', at_key=True)
    if service.drain.deadline == 0:
        what = "request under way" if understood else "open connection"
        message = f"0 closes every {what} at the moment of the switch"
        yield Finding((*path, "drain", "deadline"), message, 'for example "30s" lets them finish')
    if service.health.type == "none":
        message = "nothing is checked: connections go to a new version as soon as its process runs"
        yield Finding((*path, "health", "type"), message, '"tcp" waits until it accepts connections')
    yield from _words((*path, "health", "command"), service.health.command)
    yield from shortcut(path, service)


def _version(path: Path, version: Version) -> Iterator[Finding]:
    yield from _words((*path, "command"), version.command)
    yield from _program((*path, "command"), version)
    for name, value in version.env.items():
        yield from _unknown_placeholders((*path, "env", name), [value])


def _words(path: Path, command: tuple[str, ...]) -> Iterator[Finding]:
    yield from _unknown_placeholders(path, command)
    for word in command:
        if word in _SHELL_WORDS:
            hint = 'if a shell is wanted: command = ["sh", "-c", "exec …"]'
            yield Finding(path, f'"{word}" is passed to the program as it is: no shell reads the command', hint)
            return


def _unknown_placeholders(path: Path, texts: Iterable[str]) -> Iterator[Finding]:
    for word in sorted(placeholders.used(texts).difference(placeholders.KNOWN)):
        known = ", ".join(f"{{{each}}}" for each in placeholders.KNOWN)
        yield Finding(path, f"{{{word}}} is not a placeholder, and is passed on as it is", f"there are {known}")


def _program(path: Path, version: Version) -> Iterator[Finding]:
    """A version may be configured before it is installed, so a program that is missing is not an error."""
    if not version.command or "{" in version.command[0] or "$" in version.command[0]:
        return
    program = version.command[0]
    if "/" not in program:
        if not shutil.which(program, path=version.env.get("PATH", os.environ.get("PATH"))):
            yield Finding(path, f'the program "{program}" is in no folder of PATH')
        return
    file = version.cwd / program
    if not file.is_file():
        yield Finding(path, f"the program {file} does not exist", "a relative path starts at cwd")
    elif not os.access(file, os.X_OK):
        yield Finding(path, f"{file} may not be executed", f"chmod +x {file}")
