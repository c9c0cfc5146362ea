"""`proxyctl check` is what stands between an edit and a reload."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli.check import command

VALID = """\
[services.web]
listen = ["127.0.0.1:8080", "[::1]:8080"]
active = "v2"
health = { type = "http", path = "/healthz" }
[services.web.versions.v1]
command = "sh app --port {port}"
[services.web.versions.v2]
command = "sh -c 'exec ./app'"
replicas = 2
[services.db]
listen = "127.0.0.1:5432"
active = "main"
drain.deadline = "1m30s"
versions.main.address = "10.0.0.5:5432"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "proxy.toml"
    path.write_text(VALID)
    return path


def check(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_a_valid_config_says_what_would_run_one_line_for_each_service(config: Path) -> None:
    result = check(config)

    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        f"{config} is valid",
        "  web: 127.0.0.1:8080, [::1]:8080 → v2 (2 x sh -c 'exec ./app'), check: http /healthz, drain: 30s; also v1",
        "  db: 127.0.0.1:5432 → main (10.0.0.5:5432), check: tcp, drain: 1m30s",
    ]


def test_every_error_is_printed_with_place_and_hint(config: Path) -> None:
    config.write_text(VALID.replace("listen", "lisen").replace('active = "v2"', 'active = "v3"'))
    result = check(config)

    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0] == f"{config}:2:1: services.web.lisen: unknown key"
    assert lines[1] == '    did you mean "listen"?'
    assert lines[2] == f'{config}:3:10: services.web.active: there is no version "v3"'
    assert lines[-1] == "3 errors in the config"


def test_a_warning_is_printed_and_is_no_failure(config: Path) -> None:
    config.write_text(VALID.replace('"1m30s"', "0"))
    result = check(config)

    assert result.exit_code == 0
    assert result.stderr.startswith(f"warning: {config}:13:18: services.db.drain.deadline: 0 closes")


def test_scripts_get_every_problem_as_json(config: Path) -> None:
    valid = json.loads(check(config, "--json").stdout)
    assert valid == {"file": str(config), "valid": True, "errors": [], "warnings": []}

    config.write_text(VALID.replace("also", "").replace('"1m30s"', '"soon"'))
    result = check(config, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 2
    assert report["valid"] is False
    (error,) = report["errors"]
    assert error.keys() == {"file", "line", "column", "key", "message", "hint"}
    assert (error["line"], error["key"]) == (13, "services.db.drain.deadline")


def test_without_a_config_it_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("proxy.config.paths.PLACES", (Path("proxy.toml"),))

    result = check()
    assert result.exit_code == 2
    assert str(tmp_path / "proxy.toml") in result.stderr
    assert "proxyctl demo" in result.stderr

    report = json.loads(check("--json").stdout)
    assert report["valid"] is False


def test_the_config_of_the_working_directory_is_the_default(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config.parent)

    assert check().stdout.startswith("proxy.toml is valid")


def test_the_schema_can_be_written_to_a_file() -> None:
    assert json.loads(check("--schema").stdout)["required"] == ["services"]


def test_the_help_shows_how_to_use_the_schema_and_examples() -> None:
    text = check("--help").stdout

    assert "\n    #:schema ./proxy.schema.json\n" in text
    assert "\n    proxyctl check --json | jq '.errors[].message'\n" in text


def test_a_long_command_does_not_fill_the_screen(config: Path) -> None:
    config.write_text(VALID.replace("exec ./app", "exec ./app " + "x" * 1000))

    assert all(len(line) < 200 for line in check(config).stdout.splitlines())
