"""The JSON schema of the config, for editors that complete and check TOML by one (Taplo, Even Better TOML)."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from proxy.config import settings
from proxy.config.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_DRAFT = "http://json-schema.org/draft-07/schema#"  # what Taplo supports


def json_schema() -> dict[str, Any]:
    """Return the schema of the file as it is written: durations as strings or numbers, addresses as strings."""
    schema = Settings.model_json_schema(mode="validation")
    for model, key, text in _meanings():
        described = schema if model == Settings.__name__ else schema["$defs"][model]
        described["properties"][key] = {"description": text, **described["properties"][key]}
    schema = _untitled(schema)
    definitions = schema.pop("$defs")
    return {"$schema": _DRAFT, "title": "proxyctl", **schema, "definitions": definitions}


def _meanings() -> Iterator[tuple[str, str, str]]:
    """The text below each key in the source, with its model and the key: Python keeps none for attributes."""
    source = ast.parse(inspect.getsource(settings))
    for model in (each for each in source.body if isinstance(each, ast.ClassDef)):
        for statement, following in pairwise(model.body):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(text))):
                    yield model.name, key, text


def _untitled(value: Any) -> Any:
    """Leave out the titles that pydantic makes from the keys, and point to where draft 7 keeps definitions."""
    match value:
        case dict():
            return {key: _untitled(item) for key, item in value.items() if key != "title"}
        case list():
            return [_untitled(item) for item in value]
        case str():
            return " ".join(value.split()).replace("#/$defs/", "#/definitions/")
        case _:
            return value
