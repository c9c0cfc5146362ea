"""One method for each endpoint: read the request, ask control, answer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, Response

from proxy.api import body
from proxy.api.errors import JsonResponse, RequestError
from proxy.api.output import OutputStream
from proxy.api.sse import EventStream
from proxy.core.requests import SwapRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    import trio
    from starlette.requests import Request

    from proxy.api.protocol import Control, Operation

_MOST = 1000  # operations that one request can ask for: as many as control remembers
_MOST_LINES = 100_000


class Handlers:
    """`shutdown` ends the streams. With `tcp`, a request may come from any user of this machine."""

    def __init__(self, control: Control, shutdown: trio.Event, *, tcp: bool) -> None:
        self._control = control
        self._shutdown = shutdown
        self._tcp = tcp

    async def status(self, request: Request) -> Response:
        body.query(request)
        return JsonResponse(await self._control.status())

    async def service_status(self, request: Request) -> Response:
        body.query(request)
        return JsonResponse(await self._control.service_status(_service(request)))

    async def swap(self, request: Request) -> Response:
        fields = await body.json_object(request, "version", "deadline", "command", "wait")
        command, wait = body.command(fields, "command"), body.flag(fields, "wait")
        if command and self._tcp:
            raise RequestError(
                403,
                "forbidden",
                "a command is only taken over the control socket",
                hint="everybody on this machine can reach a TCP port; only the proxy's own user can reach the socket",
            )
        wanted = SwapRequest(body.text(fields, "version"), body.seconds(fields, "deadline"), command)
        return await _accepted(await self._control.swap(_service(request), wanted), wait=wait)

    async def rollback(self, request: Request) -> Response:
        fields = await body.json_object(request, "deadline", "wait")
        deadline, wait = body.seconds(fields, "deadline"), body.flag(fields, "wait")
        return await _accepted(await self._control.rollback(_service(request), deadline=deadline), wait=wait)

    async def restart(self, request: Request) -> Response:
        fields = await body.json_object(request, "deadline", "wait")
        deadline, wait = body.seconds(fields, "deadline"), body.flag(fields, "wait")
        return await _accepted(await self._control.restart(_service(request), deadline=deadline), wait=wait)

    async def pause(self, request: Request) -> Response:
        await body.json_object(request)
        await self._control.pause(_service(request))
        return JsonResponse(await self._control.service_status(_service(request)))

    async def resume(self, request: Request) -> Response:
        await body.json_object(request)
        await self._control.resume(_service(request))
        return JsonResponse(await self._control.service_status(_service(request)))

    async def events(self, request: Request) -> EventStream:
        body.query(request)
        return EventStream(self._control, self._shutdown)

    async def history(self, request: Request) -> Response:
        query = body.query(request, "service", "limit")
        limit = body.count(query, "limit", default=100, most=_MOST)
        return JsonResponse({"history": list(self._control.history(query.get("service"), limit=limit))})

    async def logs(self, request: Request) -> OutputStream:
        query = body.query(request, "lines", "follow")
        service, version = _service(request), request.path_params["version"]
        return OutputStream(
            lambda: self._control.output_files(service, version),
            self._control.output_directory(service, version),
            lines=body.count(query, "lines", default=100, most=_MOST_LINES),
            follow=body.flag(query, "follow"),
            closing=self._shutdown,
        )

    async def reload(self, request: Request) -> Response:
        await body.json_object(request)
        return JsonResponse(await self._control.reload())

    async def upgrade(self, request: Request) -> Response:
        await body.json_object(request)
        return JsonResponse(await self._control.upgrade(), 202)

    async def stop(self, request: Request) -> Response:
        fields = await body.json_object(request, "now")
        now = body.flag(fields, "now")
        self._control.stop(now=now)
        return JsonResponse({"pid": os.getpid(), "now": now}, 202)

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
