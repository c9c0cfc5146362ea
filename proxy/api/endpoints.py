"""The API, endpoint by endpoint: the routes are made of this list, and so is its description (openapi.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from proxy.api.bodies import EventsQuery, HistoryQuery, LogsQuery, Nothing, OperateBody, StopBody, SwapBody

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.api.bodies import Fields

SERVICE = "/v1/services/{service}"
TEXT, STREAM = "text/plain", "text/event-stream"


@dataclass(frozen=True)
class Endpoint:
    """`name` is a method of Handlers. `answers` are models of answers.py by status, or media types of what is no JSON;
    `errors` the statuses of errors that only this endpoint has.
    """

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    answers: Mapping[int, str]
    errors: tuple[int, ...] = ()
    body: type[Fields] | None = None
    query: type[Fields] = Nothing
    details: str = field(default="")


_SWAPS = {200: "Result", 202: "Operation"}
_WHILE_IT_RUNS = "Without `wait`, 202 says what has begun, and `/v1/events` and `/v1/history` how it goes on and ends."

ENDPOINTS = (
    Endpoint("GET", "/v1/status", "status", "All that runs.", {200: "Status"}),
    Endpoint("GET", SERVICE, "service_status", "One service.", {200: "Service"}, (404,)),
    Endpoint(
        "POST",
        f"{SERVICE}/swap",
        "swap",
        "Start a version, wait until it is healthy, move new connections to it, and let the old one finish.",
        _SWAPS,
        (404, 409),
        SwapBody,
        details=_WHILE_IT_RUNS,
    ),
    Endpoint(
        "POST",
        f"{SERVICE}/rollback",
        "rollback",
        "Go back to the previous generation.",
        _SWAPS,
        (404, 409),
        OperateBody,
        details=_WHILE_IT_RUNS,
    ),
    Endpoint(
        "POST",
        f"{SERVICE}/restart",
        "restart",
        "Start the active version anew, without a gap.",
        _SWAPS,
        (404, 409),
        OperateBody,
        details=_WHILE_IT_RUNS,
    ),
    Endpoint(
        "POST",
        f"{SERVICE}/pause",
        "pause",
        "Hold new connections: accepted, not refused.",
        {200: "Service"},
        (404, 409),
        Nothing,
    ),
    Endpoint(
        "POST", f"{SERVICE}/resume", "resume", "Let those go that a pause holds.", {200: "Service"}, (404,), Nothing
    ),
    Endpoint(
        "GET",
        "/v1/events",
        "events",
        "What happens, as it happens: Server-Sent Events.",
        {200: STREAM},
        query=EventsQuery,
    ),
    Endpoint(
        "GET",
        "/v1/history",
        "history",
        "Past operations, and who asked for what; newest last.",
        {200: "History"},
        (404,),
        query=HistoryQuery,
    ),
    Endpoint(
        "GET",
        f"{SERVICE}/versions/{{version:path}}/logs",
        "logs",
        "What the processes of a version print.",
        {200: TEXT},
        (404,),
        query=LogsQuery,
    ),
    Endpoint("POST", "/v1/reload", "reload", "Apply a changed config.", {200: "Reloaded"}, (409, 422), Nothing),
    Endpoint("POST", "/v1/upgrade", "upgrade", "Replace the proxy's own code.", {202: "UpgradeBegun"}, (409,), Nothing),
    Endpoint("POST", "/v1/stop", "stop", "Drain everything and end the proxy.", {202: "Stopping"}, (), StopBody),
    Endpoint("GET", "/v1/access", "access", "What you may do here.", {200: "Access"}),
    Endpoint("GET", "/v1/openapi.json", "openapi", "This description.", {200: "Description"}),
    Endpoint("GET", "/metrics", "metrics", "Metrics for Prometheus.", {200: TEXT}),
    Endpoint("GET", "/livez", "livez", "Whether the control process answers.", {200: TEXT}),
    Endpoint(
        "GET",
        "/readyz",
        "readyz",
        "Whether every service has a healthy active generation.",
        {200: TEXT, 503: TEXT},
    ),
)
