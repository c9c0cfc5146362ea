"""A limit that is set and does not hold is worse than none: it is pointed out before it is relied upon."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config import Service, Version
from proxy.config.shortcuts import shortcut
from proxy.core.address import Address


def found(datapath: str, *, version: dict[str, Any] | None = None, **service: Any) -> list[tuple[str, str]]:
    recipe = Version.model_validate({"name": "v1", **(version or {"command": ["./app", "{port}"]})})
    web = Service.model_validate(
        {
            "name": "web",
            "listen": Address("127.0.0.1", 80),
            "active": "v1",
            "versions": {"v1": recipe},
            "datapath": datapath,
            **service,
        }
    )
    return [(".".join(map(str, finding.path)), finding.message) for finding in shortcut((), web)]


LIMITS = {"protocol": "http", "balance": "round_robin", "idle_timeout": 60, "max_connections": 100}


@pytest.mark.parametrize("datapath", ["relay", "steer", "inherit"])
def test_nothing_is_said_of_what_is_not_set(datapath: str) -> None:
    assert found(datapath) == []
    assert found(datapath, protocol="tcp", balance="least", idle_timeout=0, max_connections=0) == []


def test_a_worker_can_do_all_of_it() -> None:
    assert found("relay", **LIMITS, drain={"keep_warm": 60, "bake": 60}) == []


def test_under_steer_limits_are_said_to_count_only_for_what_falls_through() -> None:
    told = found("steer", **LIMITS, connect_timeout=9, drain={"keep_warm": 60, "bake": 60})
    assert [path for path, _ in told] == list(LIMITS)
    assert {message for _, message in told} == {
        'with datapath "steer" this counts only for connections that fall through to a worker'
    }


def test_under_inherit_they_are_said_to_count_for_nothing() -> None:
    told = found("inherit", **LIMITS, connect_timeout=9)
    assert [path for path, _ in told] == [*LIMITS, "connect_timeout"]
    assert all("no effect" in message for path, message in told if path != "connect_timeout")


@pytest.mark.parametrize(
    "changes",
    [
        {"listen": ["unix:/run/a", "unix:/run/b"]},
        {"version": {"command": ["./app", "{socket}"]}},
        {"version": {"command": ["./app"], "env": {"BIND": "{socket}"}}},
        {"version": {"address": "10.0.0.5:80"}},
    ],
)
def test_what_cannot_be_steered_at_all_is_pointed_out(changes: dict[str, Any]) -> None:
    ((path, message),) = found("steer", **changes)
    assert path == "datapath"
    assert message.endswith('cannot be steered: "relay" is used')


def test_what_can_be_steered_in_part_is_left_alone() -> None:
    assert found("steer", listen=["unix:/run/a", "127.0.0.1:80"]) == []


@pytest.mark.parametrize("key", ["keep_warm", "bake"])
def test_under_inherit_there_is_no_old_generation_to_go_back_to(key: str) -> None:
    ((path, message),) = found("inherit", drain={key: 60})
    assert path == f"drain.{key}"
    assert "told to stop at the switch" in message


def test_under_inherit_the_signal_does_not_wait() -> None:
    assert [path for path, _ in found("inherit", drain={"signal_at": "end"})] == ["drain.signal_at"]
    assert found("inherit", drain={"signal_at": "start"}) == []


def test_a_check_that_has_nothing_to_ask_is_pointed_out() -> None:
    app = {"command": ["./app", "--fd", "{fd}"]}
    for kind in ("tcp", "http"):
        ((path, message),) = found("inherit", version=app, health={"type": kind})
        assert (path, message[:27]) == ("health.type", "there is no {port} to ask: ")
    assert found("inherit", version=app) == []
    assert found("inherit", version=app, health={"type": "none"}) == []
    assert found("inherit", health={"type": "http"}) == []


@pytest.mark.parametrize("program", ["nginx", "/usr/sbin/nginx", "redis-server"])
def test_a_program_that_cuts_off_its_clients_at_the_switch_is_pointed_out(program: str) -> None:
    version = {"command": [program, "{port}"]}
    ((path, message),) = found("steer", version=version)
    assert path == "versions.v1.command"
    assert "cuts off its clients at SIGTERM" in message
    assert found("relay", version=version) == []
    assert found("steer", version=version, drain={"stop_signal": "SIGQUIT"}) == []
    assert found("steer", version=version, drain={"signal_at": "end"}) == []
    assert found("steer", version=version, drain={"signal_at": "start"}) == []  # somebody knows
