"""The routes of the API and of the page, and what every request passes through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from proxy.api import page
from proxy.api.endpoints import ENDPOINTS
from proxy.api.errors import Crashes, RequestError, on_error, on_http_exception
from proxy.api.guard import LOGIN, LOGOUT, Guard
from proxy.api.handlers import Handlers
from proxy.api.intake import Intake
from proxy.api.login import Login
from proxy.api.refusals import Refusals
from proxy.errors import ProxyError

if TYPE_CHECKING:
    import trio

    from proxy.api.access import Access
    from proxy.api.live import Live
    from proxy.api.protocol import Control


def build(control: Control, live: Live, shutdown: trio.Event, access: Access | None = None) -> Starlette:
    """The application for one listener. With `access` it is TCP, which anybody may reach who can: it has the page, and
    somebody who looks at who asks.
    """
    handlers = Handlers(control, live, shutdown, commands=access is None or access.allow_commands)
    routes = [Route(each.path, getattr(handlers, each.name), methods=[each.method]) for each in ENDPOINTS]
    middleware = [Middleware(Intake), Middleware(Crashes)]
    if access:
        parts = page.paths()
        refusals = Refusals()
        login = Login(access, refusals)
        routes += [
            Route("/", page.index, methods=["GET"]),
            *(Route(path, page.part, methods=["GET"]) for path in parts),
            Route(LOGIN, login.form, methods=["GET"]),
            Route(LOGIN, login.enter, methods=["POST"]),
            Route(LOGOUT, login.leave, methods=["POST"]),
        ]
        middleware.append(Middleware(Guard, access=access, open_paths=parts, refusals=refusals))
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={ProxyError: on_error, RequestError: on_error, HTTPException: on_http_exception},
    )
    app.router.redirect_slashes = False
    return app
