"""The JSON schema of the config, for editors that complete and check TOML by one (Taplo, Even Better TOML)."""

from __future__ import annotations

from typing import Any

from proxy.config.settings import Settings

_DRAFT = "http://json-schema.org/draft-07/schema#"  # what Taplo supports


def json_schema() -> dict[str, Any]:
    """Return the schema of the file as it is written: durations as strings or numbers, addresses as strings."""
    schema = _untitled(Settings.model_json_schema(mode="validation"))
    definitions = schema.pop("$defs")
    return {"$schema": _DRAFT, "title": "proxyctl", **schema, "definitions": definitions}


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
