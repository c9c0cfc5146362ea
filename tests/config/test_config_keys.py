"""A key in the wrong place is the commonest mistake in TOML, and the hardest to see."""

import pytest

from proxy.config.keys import keys_of, table_at, unknown_key
from proxy.config.settings import Drain, Health, Http, Service, Settings, Steering, Version


def test_every_table_of_the_file_has_its_model() -> None:
    assert table_at(()) is Settings
    assert table_at(("steering",)) is Steering
    assert table_at(("services", "web")) is Service
    assert table_at(("services", "web", "http")) is Http
    assert table_at(("services", "web", "drain")) is Drain
    assert table_at(("services", "web", "versions", "v1")) is Version


def test_attributes_that_are_no_keys_are_not_suggested() -> None:
    assert "name" not in keys_of(Service)
    assert "path" not in keys_of(Settings)
    assert "path" in keys_of(Health)


@pytest.mark.parametrize(
    ("path", "value", "hint"),
    [
        (("worker",), 2, 'did you mean "workers"?'),
        (("services", "web", "workers"), 2, '"workers" belongs at the top of the file, before the first [table]'),
        (("services", "web", "forwarded"), "off", '"forwarded" belongs in [services.web.http]'),
        (("services", "web", "fall"), 2, '"fall" belongs in [services.web.health]'),
        (("services", "web", "timeout"), 2, 'did you mean "idle_timeout"? "timeout" belongs in [services.web.health]'),
        (("services", "web", "health", "bake"), 2, '"bake" belongs in [services.web.drain]'),
        (("services", "web", "replicas"), 2, '"replicas" belongs in [services.web.versions.VERSION]'),
        (("services", "a b", "versions", "v 1", "bake"), 2, '"bake" belongs in [services."a b".drain]'),
        (("services", "web", "marks"), "1-99", '"marks" belongs in [steering]'),
        (("balance",), "least", '"balance" belongs in [services.NAME]'),
        (("web",), {"listen": ":80"}, "a service is written [services.web]"),
        (("services", "web", "v1"), {"command": "x"}, "a version is written [services.web.versions.v1]"),
        (("admin", "zebra"), 1, "known here: socket, listen, token_file, tls_cert, tls_key, metrics, allow_commands"),
    ],
)
def test_the_hint_leads_to_where_the_key_belongs(path: tuple[str, ...], value: object, hint: str) -> None:
    assert unknown_key(path, value).hint == hint
