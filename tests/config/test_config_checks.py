"""Keys that contradict each other start, and then do something that nobody asked for."""

from typing import Any

import pytest

from proxy.config.checks import check, check_version


def config(*, service: dict[str, Any] | None = None, version: dict[str, Any] | None = None) -> dict[str, Any]:
    recipe = {"command": "./app"} if version is None else version
    return {"services": {"web": {"listen": ":80", "active": "v1", "versions": {"v1": recipe}} | (service or {})}}


def found(table: dict[str, Any]) -> list[tuple[str, str]]:
    return [(".".join(str(part) for part in finding.path[2:]), finding.message) for finding in check(table)]


def test_a_sound_config_has_nothing_to_complain_about() -> None:
    assert found(config()) == []


def test_unknown_active_versions_list_the_known_ones_nearest_first() -> None:
    recipes = {name: {"command": "./app"} for name in ("old", "v1", "v2")}
    (finding,) = check(config(service={"active": "v11", "versions": recipes}))

    assert finding.hint == 'did you mean "v1"?; the versions are "v1", "v2" and "old"'


def test_the_only_version_there_is_is_named() -> None:
    (finding,) = check(config(service={"active": "zebra"}))

    assert finding.hint == 'there is only "v1"'


@pytest.mark.parametrize("key", ["replicas", "env", "cwd", "user", "output"])
def test_what_is_started_elsewhere_takes_no_instructions(key: str) -> None:
    (finding,) = check_version((), {"address": "10.0.0.5:80", key: "whatever"})

    assert finding.path == (key,)
    assert "no effect" in finding.message


@pytest.mark.parametrize(
    "version",
    [
        {"command": "./app {port} {socket}"},
        {"command": ["./app", "{socket}"], "env": {"BIND": ":{port}"}},
        {"command": ["./app", "$PORT", "{socket}"]},
    ],
)
def test_a_backend_accepts_on_a_port_or_a_socket_not_both(version: dict[str, Any]) -> None:
    (finding,) = check_version((), version)

    assert "both used" in finding.message


def test_the_proxys_own_variables_may_be_spelt_out_but_not_changed() -> None:
    recipe = {"command": "./app", "env": {"PORT": "{port}", "PROXY_VERSION": "7", "PROXY_SERVICE": "x"}}

    assert [finding.path[-1] for finding in check_version((), recipe)] == ["PROXY_VERSION", "PROXY_SERVICE"]


def test_what_tells_a_backend_of_its_listening_socket_is_the_proxys_only_where_there_is_one() -> None:
    recipe = {"command": "./app", "env": {"LISTEN_FDS": "1", "LISTEN_PID": "1", "NOTIFY_SOCKET": "/x"}}

    assert list(check_version((), recipe)) == list(check_version((), recipe, "steer")) == []
    found = [finding.path[-1] for finding in check_version((), recipe, "inherit")]
    assert found == ["LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET"]


def test_a_backend_that_inherits_may_have_a_private_port_too() -> None:
    assert list(check_version((), {"command": "./app --fd {fd} --health {port}"}, "inherit")) == []
    assert list(check_version((), {"command": "./app"}, "inherit")) == []


def test_beside_a_socket_the_port_is_the_programs_own() -> None:
    assert list(check_version((), {"command": "./app {socket}", "env": {"PORT": "9100"}})) == []


def test_a_listener_of_admin_is_a_listener_too() -> None:
    table = config(service={"listen": ["127.0.0.1:80", "127.0.0.1:0", "127.0.0.1:0"]})
    table["admin"] = {"listen": "127.0.0.1:80"}

    (finding,) = check(table)
    assert finding.path == ("admin", "listen")


def test_a_backend_that_is_the_proxy_itself_would_loop_for_ever() -> None:
    table = config(service={"listen": "127.0.0.1:80"}, version={"address": ["10.0.0.1:80", "localhost:80"]})

    ((path, message),) = found(table)
    assert path == "versions.v1.address.1"
    assert "the proxy itself" in message


def test_http_keys_beside_an_explicit_other_type_are_a_choice() -> None:
    assert found(config(service={"health": {"type": "tcp", "path": "/healthz"}})) == []
    assert len(found(config(service={"health": {"path": "/healthz", "status": "200"}}))) == 2


@pytest.mark.parametrize("kind", ["tcp", "http", "none"])
def test_a_health_command_that_never_runs_is_a_mistake(kind: str) -> None:
    ((path, _),) = found(config(service={"health": {"type": kind, "command": "true"}}))

    assert path == "health.command"


@pytest.mark.parametrize(
    "table",
    [
        {"services": 5},
        {"services": {"web": 5}},
        {"services": {"web": {"versions": 5, "active": 5, "listen": 5, "health": 5}}},
        {"services": {"web": {"versions": {"v1": 5}, "active": "v1", "listen": [5, "x"]}}, "admin": 5},
        {"services": {"web": {"versions": {"v1": {"command": 5, "env": 5, "address": 5}}, "active": []}}},
        {"services": {"web": {"health": {"type": [], "command": {}}}}},
        {"services": {"web": {"datapath": {}, "versions": {"v1": {"command": "./app {port}"}}}}},
    ],
)
def test_wrong_types_are_left_to_validation(table: dict[str, Any]) -> None:
    list(check(table))
