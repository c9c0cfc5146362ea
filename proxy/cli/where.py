"""Which control socket a verb talks to, and how to say where that came from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from proxy.config.paths import admin_socket, default_socket, default_state_dir

ENVIRONMENT = "PROXYCTL_SOCKET"
ROOTS = Path("/run/proxyctl/control.sock")  # where root's proxy listens unless its config says otherwise


class Where(NamedTuple):
    socket: Path
    source: str


def find(option: str | None) -> Where:
    """`--socket`, else the environment, else `admin.socket` of the config in the working folder, else the default."""
    if option:
        return Where(Path(option), "--socket")
    if given := os.environ.get(ENVIRONMENT):
        return Where(Path(given), f"${ENVIRONMENT}")
    config = Path("proxy.toml")
    if found := admin_socket(config):
        return Where(found, "./proxy.toml")
    unread = ", because ./proxy.toml cannot be read: `proxyctl check` says why" if config.exists() else ""
    return Where(default_socket(default_state_dir()), f"the default{unread}")
