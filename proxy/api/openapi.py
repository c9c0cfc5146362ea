"""The description of the API (OpenAPI 3.1), made of what it works by: its endpoints, and the models of their bodies.

Imported when somebody asks for it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from proxy import __version__
from proxy.api import answers
from proxy.api.bodies import Nothing
from proxy.api.endpoints import ENDPOINTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import BaseModel

    from proxy.api.endpoints import Endpoint

Json = dict[str, Any]

_ERRORS = {
    400: "The request is wrong: the message says what, the hint what would be right.",
    401: "A token is needed, or the one given is not right. Over TCP, with admin.token_file.",
    403: "Not from there, or not with this token.",
    404: "There is no such service, version or path.",
    408: "The body did not arrive in time.",
    409: "It cannot be done as things are.",
    413: "The body is too large.",
    415: "The Content-Type is not application/json.",
    422: "The config is not valid; `problems` has every error in it.",
    429: "Too many attempts with a wrong token came from there.",
    503: "The proxy is stopping.",
}
_ALWAYS = (400, 401, 403, 429)
_TO_ACT = (408, 413, 415, 503)
_OPEN = ("/livez", "/readyz")
_INTRODUCTION = """The API of a running proxy, on its control socket and at admin.listen.

Errors have one form, `{"error": {"code", "message", "hint"}}`. What changes something takes `Content-Type:
application/json`, also without a body. On the control socket no token is needed: the socket's mode says who may."""


@cache
def document() -> Json:
    """The whole description."""
    schemas = _schemas(answers.Error, *_models())
    return {
        "openapi": "3.1.0",
        "info": {"title": "proxyctl", "version": __version__, "description": _INTRODUCTION},
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A token of admin.token_file."},
            },
        },
        "security": [{"token": []}, {}],
    }


def _paths() -> Json:
    paths: dict[str, Json] = {}
    for endpoint in ENDPOINTS:
        path = endpoint.path.replace(":path}", "}")
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint)
    return paths


def _operation(endpoint: Endpoint) -> Json:
    described: Json = {"operationId": endpoint.name, "summary": endpoint.summary, "responses": _responses(endpoint)}
    if endpoint.details:
        described["description"] = endpoint.details
    if parameters := [*_path_parameters(endpoint), *_query_parameters(endpoint)]:
        described["parameters"] = parameters
    if endpoint.body:
        content = {"application/json": {"schema": _reference(endpoint.body.__name__)}}
        required = any(field.is_required() for field in endpoint.body.model_fields.values())
        described["requestBody"] = {"required": required, "content": content}
    if endpoint.path in _OPEN:
        described["security"] = []
    return described


def _responses(endpoint: Endpoint) -> Json:
    responses = {str(status): _answer(what) for status, what in endpoint.answers.items()}
    if endpoint.path in _OPEN:
        return responses
    for status in sorted({*_ALWAYS, *(_TO_ACT if endpoint.method == "POST" else ()), *endpoint.errors}):
        content = {"application/json": {"schema": _reference("Error")}}
        responses[str(status)] = {"description": _ERRORS[status], "content": content}
    return responses


def _answer(what: str) -> Json:
    if "/" in what:
        return {"description": "Text.", "content": {what: {"schema": {"type": "string"}}}}
    model = getattr(answers, what)
    return {"description": model.__doc__, "content": {"application/json": {"schema": _reference(what)}}}


def _path_parameters(endpoint: Endpoint) -> Iterator[Json]:
    for name in ("service", "version"):
        if f"{{{name}" in endpoint.path:
            yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameters(endpoint: Endpoint) -> Iterator[Json]:
    for name, schema in endpoint.query.model_json_schema().get("properties", {}).items():
        kept = {key: value for key, value in schema.items() if key not in {"title", "description"}}
        yield {"name": name, "in": "query", "description": schema.get("description", ""), "schema": kept}


def _models() -> Iterator[type[BaseModel]]:
    for endpoint in ENDPOINTS:
        yield from (getattr(answers, what) for what in endpoint.answers.values() if "/" not in what)
        if endpoint.body:
            yield endpoint.body
    yield Nothing


def _schemas(*models: type[BaseModel]) -> Json:
    unique: Iterable[type[BaseModel]] = dict.fromkeys(models)
    wanted = [(model, "validation") for model in unique]
    _, found = models_json_schema(wanted, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]  # a list of literals
    schemas = found["$defs"]
    return {name: _untitled(schema) for name, schema in schemas.items()}


def _untitled(value: Any) -> Any:
    """Without the titles that pydantic makes of the names."""
    match value:
        case dict():
            return {key: _untitled(item) for key, item in value.items() if key != "title" or not isinstance(item, str)}
        case list():
            return [_untitled(item) for item in value]
    return value


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
