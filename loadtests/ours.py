"""The proxy of this checkout, in front of a backend that runs elsewhere."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from machine import running

from proxy.cli.client import Client
from proxy.cli.where import Where
from proxy.errors import NotRunningError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROXYCTL = (sys.executable, "-P", "-m", "proxy.cli")


@contextmanager
def proxy(
    folder: Path,
    port: int,
    backend: int,
    *,
    workers: int,
    health: str,
    protocol: str = "tcp",
    forwarded: str = "append",
) -> Iterator[tuple[int, Path]]:
    """Run it until the block ends; yields its pid and control socket. `port`: the public one; `backend`: a port too."""
    http = f'[services.web.http]\nforwarded = "{forwarded}"\n' if protocol == "http" else ""
    config, control = folder / "proxy.toml", folder / "control.sock"
    config.write_text(
        f'state_dir = "{folder}/state"\nworkers = {workers}\n'
        f'[services.web]\nlisten = "127.0.0.1:{port}"\nactive = "v1"\nprotocol = "{protocol}"\n{http}'
        f'[services.web.health]\ntype = "{health}"\n[services.web.drain]\ndeadline = 0\n'
        f'[services.web.versions.v1]\naddress = "127.0.0.1:{backend}"\n'
    )
    command = [*PROXYCTL, "--socket", str(control), "run", str(config)]
    with running(command, log=folder / "log", ready=lambda: _serves(control)) as pid:
        yield pid, control


def _serves(control: Path) -> bool:
    """Whether all workers run and the backend is healthy."""
    try:
        return bool(Client(Where(control, "")).get("/v1/services/web")["state"] == "serving")
    except NotRunningError:
        return False
