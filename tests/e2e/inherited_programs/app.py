"""An application for uvicorn and gunicorn that tells when it is ready, and who answers.

In uvicorn it says READY=1 itself (sd_notify(3)), and makes the file $READY, if that is in its environment.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

NAME = " ".join(os.environ[name] for name in ("PROXY_VERSION", "PROXY_GENERATION", "PROXY_REPLICA"))


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        _tell()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = f"{NAME} {os.getpid()}".encode()
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body})


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = f"{NAME} {os.getpid()}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _tell() -> None:
    if path := os.environ.get("READY"):
        Path(path).touch()
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
