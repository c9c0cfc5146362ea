"""What to try after the demo."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.cli.demo.stage import Stage


def after() -> list[str]:
    """When all of it is gone."""
    proxyctl = _program()
    return [
        "To try next:",
        f"  {proxyctl} demo --keep    # the same, but the proxy goes on, for you to swap",
        f'  {proxyctl} help run       # your own service; with protocol = "http" it is swapped as here',
        f"  {proxyctl} doctor         # what this machine allows",
    ]


def while_it_runs(scene: Stage) -> list[str]:
    """When the proxy goes on."""
    proxyctl, url = f"{_program()} --socket {scene.socket}", f"http://127.0.0.1:{scene.port}"
    return [
        f"The proxy goes on, and so does its admin page: {scene.page}",
        "To try:",
        f"  curl {url}/",
        f"  curl -d my-order {url}/orders",
        f"  curl -o /dev/null '{url}/download?seconds=20'    # and swap meanwhile",
        f"  {proxyctl} status",
        f"  {proxyctl} swap v2",
        f"  {proxyctl} rollback",
        f'  {proxyctl} swap v3 --command "{scene.backend_command}"',
        f"  {proxyctl} history",
        f"  curl --unix-socket {scene.socket} http://localhost/metrics",
        "To end it, and remove its folder:",
        f"  {proxyctl} stop && rm -r {scene.folder}",
    ]


def _program() -> str:
    """What to type to get this program again."""
    if shutil.which("proxyctl"):
        return "proxyctl"
    started = Path(sys.argv[0]).absolute()
    return str(started) if started.name == "proxyctl" else f"{sys.executable} -m proxy.cli"
