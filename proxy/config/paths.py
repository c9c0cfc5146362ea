"""Where things are when the config does not say.

Every `proxyctl` verb asks for the control socket, so this is quick: no pydantic here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli

from proxy.errors import ConfigError, Problem, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACES = (Path("proxy.toml"), Path("/etc/proxyctl/proxy.toml"))

HOW_TO_BEGIN = """see it work with nothing installed: proxyctl demo
or begin with a proxy.toml like this (conf/ has more examples):
    [services.web]
    listen = "127.0.0.1:8080"
    active = "v1"
    [services.web.versions.v1]
    command = "python3 -m http.server --bind 127.0.0.1 {port}"\
"""


def find(argument: str | None = None) -> Path:
    """Return the config that a command means: `argument`, else the first of `PLACES` that exists.

    Raises ConfigError, which says where it looked and how to begin, if there is none.
    """
    if argument is not None:
        return Path(argument)
    for place in PLACES:
        if place.exists():
            return place
    looked = " and ".join(str(place.absolute()) for place in PLACES)
    raise ConfigError([Problem("proxy.toml", 0, 0, "", f"there is no config; looked for {looked}", HOW_TO_BEGIN)])


def default_state_dir() -> Path:
    """/var/lib/proxyctl for root, otherwise below XDG_STATE_HOME (XDG Base Directory Specification).

    Raises UsageError if there is neither that nor a home.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/proxyctl")
    return (_xdg("XDG_STATE_HOME") or _home() / ".local/state") / "proxyctl"


def default_socket(state_dir: Path) -> Path:
    """/run/proxyctl/control.sock for root, otherwise in XDG_RUNTIME_DIR, or in `state_dir` where that is not set."""
    if os.geteuid() == 0:
        return Path("/run/proxyctl/control.sock")
    runtime = _xdg("XDG_RUNTIME_DIR")
    return (runtime / "proxyctl" if runtime else state_dir) / "control.sock"


def socket_of(table: Mapping[str, Any], folder: Path) -> Path:
    """The control socket that a config's top table leads to. Values of a wrong type count as not given."""
    admin = table.get("admin")
    given = _text(admin.get("socket")) if isinstance(admin, dict) else ""
    state_dir = _text(table.get("state_dir"))
    return folder / given if given else default_socket(folder / state_dir if state_dir else default_state_dir())


def admin_socket(path: Path) -> Path | None:
    """The control socket of the proxy that runs with the config at `path`; None if that cannot be read.

    Tolerant, because a proxy may run while its file is being edited: what is wrong with the file is `load`'s to say.
    """
    try:
        return socket_of(tomli.loads(path.read_text("utf-8-sig")), path.absolute().parent)
    except (OSError, ValueError, RecursionError):
        return None


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # a user id without a passwd entry, as containers may have
        hint = "set state_dir in the config, or XDG_STATE_HOME"
        raise UsageError("there is no place for the state: this user has no home folder", hint=hint) from error


def _xdg(variable: str) -> Path | None:
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else None  # relative ones are invalid, and to be ignored


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
