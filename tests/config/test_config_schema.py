"""An editor that marks a right config as wrong, or the other way round, is worse than none."""

from typing import Any

import pytest

from proxy.config import json_schema
from proxy.config.keys import keys_of
from proxy.config.settings import Admin, Drain, Health, Http, Service, Settings, Steering, Version

MODELS = {
    "Admin": Admin,
    "Http": Http,
    "Health": Health,
    "Drain": Drain,
    "Version": Version,
    "Service": Service,
    "Steering": Steering,
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema()


def test_every_key_of_the_file_is_known_and_no_other(schema: dict[str, Any]) -> None:
    assert list(schema["properties"]) == keys_of(Settings)
    for name, model in MODELS.items():
        definition = schema["definitions"][name]
        assert list(definition["properties"]) == keys_of(model)
        assert definition["additionalProperties"] is False
    assert set(schema["definitions"]) == set(MODELS)


def test_every_key_says_what_it_means(schema: dict[str, Any]) -> None:
    for table in (schema, *schema["definitions"].values()):
        for key, value in table["properties"].items():
            if key not in {"services", "versions"} and "$ref" not in value:
                assert value["description"], key


def test_only_what_has_no_default_is_required(schema: dict[str, Any]) -> None:
    assert schema["required"] == ["services"]
    assert schema["definitions"]["Service"]["required"] == ["listen", "active", "versions"]
    assert schema["definitions"]["Version"]["oneOf"] == [{"required": ["command"]}, {"required": ["address"]}]


def test_values_are_as_they_are_written_in_toml(schema: dict[str, Any]) -> None:
    drain, health = schema["definitions"]["Drain"]["properties"], schema["definitions"]["Health"]["properties"]
    service = schema["definitions"]["Service"]["properties"]

    assert drain["deadline"]["anyOf"] == [{"type": "string"}, {"type": "number"}]
    assert (drain["stop_signal"]["type"], drain["stop_signal"]["default"]) == ("string", "SIGTERM")
    assert health["status"]["default"] == "200-399"
    assert health["type"]["enum"] == ["tcp", "http", "command", "none"]
    assert service["listen"]["anyOf"] == [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    assert service["max_connections"]["minimum"] == 0
    assert service["protocol"]["enum"] == ["tcp", "http"]
    http = schema["definitions"]["Http"]["properties"]
    assert (http["request_id"]["type"], http["forwarded"]["enum"]) == ("boolean", ["off", "append", "replace"])


def test_every_data_path_is_offered_and_what_depends_on_it_may_be_left_open(schema: dict[str, Any]) -> None:
    definitions = schema["definitions"]

    assert definitions["Service"]["properties"]["datapath"]["enum"] == ["relay", "steer", "inherit"]
    assert definitions["Drain"]["properties"]["signal_at"]["enum"] == ["", "end", "start"]
    assert definitions["Drain"]["properties"]["signal_at"]["default"] == ""
    marks = definitions["Steering"]["properties"]["marks"]
    assert (marks["type"], marks["default"]) == ("string", "0x5a000000-0x5a0000ff")


def test_references_lead_somewhere(schema: dict[str, Any]) -> None:
    text = str(schema)

    assert "$defs" not in text
    for name in MODELS:
        assert f"#/definitions/{name}" in text


def test_the_schema_is_the_same_for_every_user(schema: dict[str, Any]) -> None:
    """It is checked in beside configs, so a default that depends on who asks must not be in it."""
    assert "default" not in schema["properties"]["state_dir"]
    assert "default" not in schema["definitions"]["Admin"]["properties"]["socket"]
    assert schema["definitions"]["Version"]["properties"]["cwd"]["default"] == ""
