"""A trap has to be pointed out before it springs, and nothing else: who cries wolf is ignored."""

from pathlib import Path
from typing import Any

import pytest

from proxy.config import Service, Settings, Version
from proxy.config.advice import advise
from proxy.core.address import Address


def advice(*, service: dict[str, Any] | None = None, **version: Any) -> list[tuple[str, str]]:
    recipe = Version.model_validate({"name": "v1", "command": ["sh"], **version})
    web = Service.model_validate(
        {
            "name": "web",
            "listen": Address("127.0.0.1", 80),
            "active": "v1",
            "versions": {"v1": recipe},
            **(service or {}),
        }
    )
    findings = advise(Settings(path=Path("/proxy.toml"), services={"web": web}))
    return [(".".join(str(part) for part in finding.path[2:]), finding.message) for finding in findings]


def test_a_sound_config_gets_no_advice() -> None:
    assert advice(command=["sh", "-c", "exec ./app --port {port} && x"], env={"A": "{version}"}) == []


def test_a_drain_that_cuts_everyone_off_is_pointed_out() -> None:
    ((path, message),) = advice(service={"drain": {"deadline": 0}})

    assert path == "drain.deadline"
    assert "closes every open connection" in message


def test_a_drain_that_cuts_requests_off_is_pointed_out_too() -> None:
    ((path, message),) = advice(service={"protocol": "http", "drain": {"deadline": 0}})

    assert path == "drain.deadline"
    assert "closes every request under way" in message


def test_an_http_table_that_nothing_reads_is_pointed_out() -> None:
    http = {"http": {"forwarded": "replace"}}
    ((path, message),) = advice(service=http)

    assert path == "http"
    assert "no effect" in message
    assert advice(service={"protocol": "http", **http}) == []


def test_a_health_check_that_checks_nothing_is_pointed_out() -> None:
    ((path, _),) = advice(service={"health": {"type": "none"}})

    assert path == "health.type"


@pytest.mark.parametrize("command", ["sh x && y", "sh x > log 2>&1 &", "sh x | y"])
def test_words_for_a_shell_that_is_not_there_are_pointed_out_once(command: str) -> None:
    ((path, message),) = advice(command=command)

    assert path == "versions.v1.command"
    assert "no shell reads the command" in message


def test_braces_that_are_no_placeholder_are_pointed_out() -> None:
    found = advice(command=["sh", "{hostname}"], env={"A": "{hostname}"})

    assert [path for path, _ in found] == ["versions.v1.command", "versions.v1.env.A"]


def test_a_program_that_is_not_there_yet_is_pointed_out(tmp_path: Path) -> None:
    program = tmp_path / "app"
    assert "does not exist" in advice(command=["./app"], cwd=tmp_path)[0][1]
    assert "is in no folder of PATH" in advice(command=["no-such-program"])[0][1]

    program.touch(mode=0o644)
    assert "may not be executed" in advice(command=["./app"], cwd=tmp_path)[0][1]

    program.chmod(0o755)
    assert advice(command=["./app"], cwd=tmp_path) == []
    assert advice(command=["app"], env={"PATH": str(tmp_path)}) == []


def test_a_program_whose_name_depends_on_the_version_cannot_be_judged() -> None:
    assert advice(command=["/srv/{version}/app"]) == []
