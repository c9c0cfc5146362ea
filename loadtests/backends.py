"""The servers behind every relay, which are the same for all: nginx, a server of bulk data, and a websocket echo."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from loadtests import nginx
from loadtests.machine import free_port, running
from loadtests.model import Backends

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = b"x" * 128

_BULK_BYTES = 1 << 38  # never fetched whole


@contextmanager
def backends(folder: Path) -> Iterator[Backends]:
    """Start all three in this empty folder, and end them with the block."""
    with ExitStack() as stack:
        yield Backends(
            web=stack.enter_context(_web(folder)),
            bulk=stack.enter_context(_program("bulk_server", folder)),
            echo=stack.enter_context(_program("echo_server", folder)),
        )


@contextmanager
def _web(folder: Path) -> Iterator[int]:
    """An nginx with one small and one large (sparse) file; yields its port.

    Below /varied/ it gives the small file under any name, and no two responses have the same head.
    """
    port = free_port()
    config = web_config(folder, web_root(folder), str(port))
    with nginx.serving(folder, config, port):
        yield port


def web_root(folder: Path) -> Path:
    """Make the files that it serves."""
    root = folder / "www"
    root.mkdir()
    (root / "small").write_bytes(SMALL)
    with (root / "bulk").open("wb") as file:
        file.truncate(_BULK_BYTES)
    return root


def web_config(folder: Path, root: Path, *ports: str) -> str:
    """Of an nginx that may write in this folder, and listens on these ports of 127.0.0.1."""
    listens = "".join(f"listen 127.0.0.1:{port} backlog=4096; " for port in ports)
    return nginx.head(folder, 1) + (
        f"http {{ sendfile on; {nginx.http_settings(folder)}"
        f"server {{ {listens}root {root}; "
        "location /varied/ { try_files /small =404; add_header Content-Location $request_uri; } } }\n"
    )


@contextmanager
def _program(name: str, folder: Path) -> Iterator[int]:
    """`python -m loadtests.scenarios.NAME PORT`, which says "ready" once it listens; yields its port."""
    port, log = free_port(), folder / f"{name}.log"
    command = [sys.executable, "-m", f"loadtests.scenarios.{name}", str(port)]
    with running(command, log=log, ready=lambda: "ready" in log.read_text(errors="replace")):
        yield port
