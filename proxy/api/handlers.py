"""One method for each endpoint: read the request, ask control, answer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, Response

from proxy.api import body
from proxy.api.bodies import EventsQuery, HistoryQuery, LogsQuery, Nothing, OperateBody, StopBody, SwapBody
from proxy.api.errors import JsonResponse, RequestError
from proxy.api.guard import CALLER, ROLE
from proxy.api.output import OutputStream
from proxy.api.sse import EventStream, LiveStream
from proxy.core.caller import NOBODY, Caller
from proxy.core.requests import SwapRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import trio
    from starlette.requests import Request

    from proxy.api.live import Live
    from proxy.api.protocol import Control, Operation


class Handlers:
    """`shutdown` ends the streams. `commands`: whether a swap may bring one, which runs whatever it says."""

    def __init__(self, control: Control, live: Live, shutdown: trio.Event, *, commands: bool) -> None:
        self._control = control
        self._live = live
        self._shutdown = shutdown
        self._commands = commands

    async def status(self, request: Request) -> Response:
        body.query(request, Nothing)
        return JsonResponse(await self._control.status())

    async def service_status(self, request: Request) -> Response:
        body.query(request, Nothing)
        return JsonResponse(await self._control.service_status(_service(request)))

    async def swap(self, request: Request) -> Response:
        wanted = await body.read(request, SwapBody)
        if wanted.command and not self._commands:
            raise RequestError(
                403,
                "forbidden",
                "a command is only taken over the control socket",
                hint="whoever may send one here may run anything: `allow_commands = true` in [admin] is for that",
            )
        asked = SwapRequest(wanted.version, wanted.deadline, wanted.command)
        operation = await self._control.swap(_service(request), asked, _caller(request))
        return await _accepted(operation, wait=wanted.wait)

    async def rollback(self, request: Request) -> Response:
        wanted = await body.read(request, OperateBody)
        operation = await self._control.rollback(_service(request), _caller(request), deadline=wanted.deadline)
        return await _accepted(operation, wait=wanted.wait)

    async def restart(self, request: Request) -> Response:
        wanted = await body.read(request, OperateBody)
        operation = await self._control.restart(_service(request), _caller(request), deadline=wanted.deadline)
        return await _accepted(operation, wait=wanted.wait)

    async def pause(self, request: Request) -> Response:
        await body.read(request, Nothing)
        await self._control.pause(_service(request), _caller(request))
        return JsonResponse(await self._control.service_status(_service(request)))

    async def resume(self, request: Request) -> Response:
        await body.read(request, Nothing)
        await self._control.resume(_service(request), _caller(request))
        return JsonResponse(await self._control.service_status(_service(request)))

    async def events(self, request: Request) -> EventStream | LiveStream:
        if body.query(request, EventsQuery).status:
            return LiveStream(self._live, self._shutdown)
        return EventStream(self._control, self._shutdown)

    async def history(self, request: Request) -> Response:
        query = body.query(request, HistoryQuery)
        history = list(self._control.history(query.service, limit=query.limit))
        actions = list(self._control.actions(query.service, limit=query.limit))
        return JsonResponse({"history": history, "actions": actions})

    async def logs(self, request: Request) -> OutputStream:
        query = body.query(request, LogsQuery)
        service, version = _service(request), request.path_params["version"]

        def files() -> Sequence[Path]:
            found = self._control.output_files(service, version)
            return [path for path in found if query.generation in {None, int(path.name.partition(".")[0])}]

        return OutputStream(
            files,
            self._control.output_directory(service, version),
            lines=query.lines,
            follow=query.follow,
            closing=self._shutdown,
        )

    async def reload(self, request: Request) -> Response:
        await body.read(request, Nothing)
        return JsonResponse(await self._control.reload(_caller(request)))

    async def upgrade(self, request: Request) -> Response:
        await body.read(request, Nothing)
        return JsonResponse(await self._control.upgrade(_caller(request)), 202)

    async def stop(self, request: Request) -> Response:
        now = (await body.read(request, StopBody)).now
        self._control.stop(_caller(request), now=now)
        return JsonResponse({"pid": os.getpid(), "now": now}, 202)

    async def access(self, request: Request) -> Response:
        body.query(request, Nothing)
        right = _caller(request).right if request.scope.get(ROLE) else "socket"
        return JsonResponse({"role": request.scope.get(ROLE, "act"), "right": right, "commands": self._commands})

    async def openapi(self, request: Request) -> Response:
        from proxy.api.openapi import document  # noqa: PLC0415 - hardly anybody asks, and it takes a while

        body.query(request, Nothing)
        return JsonResponse(document())

    async def metrics(self, request: Request) -> Response:
        content, content_type = await self._control.metrics(openmetrics=_wants_openmetrics(request.headers))
        return Response(content, headers={"Content-Type": content_type})

    async def livez(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(self, _request: Request) -> Response:
        reasons = self._control.not_ready()
        return PlainTextResponse("\n".join([*reasons, ""]), 503) if reasons else PlainTextResponse("ok\n")


def _service(request: Request) -> str:
    return str(request.path_params["service"])


def _caller(request: Request) -> Caller:
    found = request.scope.get(CALLER, NOBODY)
    return found if isinstance(found, Caller) else NOBODY


async def _accepted(operation: Operation, *, wait: bool) -> Response:
    """200 with the result when the client waits for it (`result` says how it went), else 202 with what has begun."""
    return JsonResponse(await operation.wait()) if wait else JsonResponse(operation.describe(), 202)


def _wants_openmetrics(headers: Mapping[str, str]) -> bool:
    """Whether Accept names OpenMetrics (Prometheus does), and not to refuse it (`q=0`, RFC 9110, 12.5.1)."""
    for choice in headers.get("accept", "").lower().split(","):
        name, *parameters = (part.strip() for part in choice.split(";"))
        if name == "application/openmetrics-text":
            return not any(p.startswith("q=") and not p[2:].strip("0.") for p in parameters)
    return False
