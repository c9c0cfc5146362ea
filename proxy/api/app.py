"""The routes of the API (the contract's list, in its order) and what every request passes through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from proxy.api.errors import Crashes, RequestError, on_error, on_http_exception
from proxy.api.guard import Guard
from proxy.api.handlers import Handlers
from proxy.api.intake import Intake
from proxy.errors import ProxyError

if TYPE_CHECKING:
    import trio

    from proxy.api.protocol import Control


def build(control: Control, shutdown: trio.Event, *, tcp: bool) -> Starlette:
    """The application for one listener. `tcp`: anybody on this machine, and any browser, can reach it."""
    handle = Handlers(control, shutdown, tcp=tcp)
    service = "/v1/services/{service}"
    app = Starlette(
        routes=[
            Route("/v1/status", handle.status, methods=["GET"]),
            Route(service, handle.service_status, methods=["GET"]),
            Route(f"{service}/swap", handle.swap, methods=["POST"]),
            Route(f"{service}/rollback", handle.rollback, methods=["POST"]),
            Route(f"{service}/restart", handle.restart, methods=["POST"]),
            Route(f"{service}/pause", handle.pause, methods=["POST"]),
            Route(f"{service}/resume", handle.resume, methods=["POST"]),
            Route("/v1/events", handle.events, methods=["GET"]),
            Route("/v1/history", handle.history, methods=["GET"]),
            Route(f"{service}/versions/{{version:path}}/logs", handle.logs, methods=["GET"]),
            Route("/v1/reload", handle.reload, methods=["POST"]),
            Route("/v1/upgrade", handle.upgrade, methods=["POST"]),
            Route("/v1/stop", handle.stop, methods=["POST"]),
            Route("/metrics", handle.metrics, methods=["GET"]),
            Route("/livez", handle.livez, methods=["GET"]),
            Route("/readyz", handle.readyz, methods=["GET"]),
        ],
        middleware=[Middleware(Intake), Middleware(Crashes), *([Middleware(Guard)] if tcp else [])],
        exception_handlers={ProxyError: on_error, RequestError: on_error, HTTPException: on_http_exception},
    )
    app.router.redirect_slashes = False
    return app
