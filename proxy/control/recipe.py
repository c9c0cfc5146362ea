"""From a version's recipe to one process of it: placeholders filled in, environment, output file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from proxy.config.settings import Version
from proxy.control import output
from proxy.control.check import Subject
from proxy.core import template

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.control.launch import User
    from proxy.control.mark import Mark
    from proxy.control.trouble import Troubles
    from proxy.core.address import Address

# What a service manager told the proxy of itself (sd_notify(3), sd_listen_fds(3)); a backend would take it as its own.
_NOTIFY = {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}
_LISTEN = {"LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"}
_OURS_ALONE = _NOTIFY | _LISTEN


def subject(
    version: Version, mark: Mark, address: Address, port: int | None, user: User | None, fd: int | None = None
) -> Subject:
    """`fd` is the number that the first public listener has in the process, where it is given any."""
    values = template.Values(
        version=version.name,
        generation=mark.generation,
        replica=mark.replica,
        port=port,
        socket=address.path or None,
        fd=fd,
    )
    env = {
        **{name: value for name, value in os.environ.items() if name not in _OURS_ALONE},
        **(user.environment if user else {}),
        **({} if port is None else {"PORT": str(port)}),
        "PROXY_VERSION": version.name,
        **{name: values.fill(value) for name, value in version.env.items()},
        **mark.environment(),  # last: what finds a backend's processes again is not for the config to change
    }
    return Subject(address=address, values=values, env=env, cwd=version.cwd)


def service_manager(mark: Mark, listeners: int, notify_socket: Path) -> dict[str, str]:
    """What only the process itself is told, which is given so many listeners; LISTEN_PID is set when its pid is known.

    A program that checks its health is no part of it, and has no such descriptors.
    """
    return {
        "LISTEN_FDS": str(listeners),
        "LISTEN_FDNAMES": ":".join([mark.service] * listeners),
        "NOTIFY_SOCKET": str(notify_socket),
    }


def log_file(version: Version, mark: Mark, state_dir: Path, troubles: Troubles | None = None) -> output.LogFile | None:
    """Where it prints to; None for the proxy's own output."""
    if version.output == "inherit":
        return None
    return output.LogFile(output.path(state_dir, mark.service, version.name, mark.generation, mark.replica), troubles)


def dump_recipe(version: Version) -> dict[str, Any]:
    """As JSON values, for the state file."""
    return version.model_dump(mode="json", warnings=False)


def read_recipe(values: dict[str, Any]) -> Version | None:
    """What `dump_recipe` made of a version; None where it is of another release, and makes no sense to this one."""
    try:
        return Version.model_validate(values)
    except ValueError:
        return None
