"""An application for gunicorn: `POST /ids/ID` counts an id, anything else says who answers."""

from __future__ import annotations

from typing import Any

from ledger import NAME, enter


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    environ["wsgi.input"].read()
    text = NAME
    if environ["PATH_INFO"].startswith("/ids/"):
        identity = environ["PATH_INFO"].removeprefix("/ids/")
        enter(identity)
        text = f"{NAME} {identity}"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text.encode()]
