"""From a file to settings: nothing that is written may be lost, and no error may hide another."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import Signals

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config import examine, load
from proxy.core.address import Address
from proxy.errors import ConfigError, Problem

WriteConfig = Callable[[str], Path]
ProblemsOf = Callable[[str], list[Problem]]

EVERYTHING = """
state_dir = "state"
workers = 3
lame_duck = "5s"
[admin]
socket = "run/control.sock"
listen = "127.0.0.1:9900"
[services.web]
listen = ["127.0.0.1:8080", "[::1]:8080", "unix:/run/web.sock"]
active = "v2"
balance = "round_robin"
connect_timeout = 1.5
idle_timeout = "10m"
max_connections = 100
[services.web.health]
type = "command"
status = "200,204"
path = "/healthz?full=1"
command = "curl -f http://127.0.0.1:{port}/"
interval = "500ms"
timeout = 1
rise = 2
fall = 5
start_timeout = "1m"
owner = "any"
[services.web.drain]
deadline = 0
stop_signal = "SIGQUIT"
stop_timeout = "1m30s"
signal_at = "start"
keep_warm = "1h"
bake = "30s"
[services.web.versions.v1]
command = ["./app", "{port}"]
replicas = 4
env = { A = "1", B = "{version}" }
cwd = "app"
output = "inherit"
[services.web.versions.v2]
address = ["10.0.0.5:9000", "db.internal:9000"]
[services.api]
listen = "127.0.0.1:0"
active = "1"
versions.1.command = "./api $PORT"
"""


@pytest.fixture
def everything(write_config: WriteConfig, tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    return write_config(EVERYTHING)


def test_every_key_of_a_file_arrives(everything: Path, tmp_path: Path) -> None:
    loaded = load(everything)
    web = loaded.services["web"]
    health, drain, v1 = web.health, web.drain, web.versions["v1"]

    assert (loaded.workers, loaded.lame_duck, loaded.admin.listen) == (3, 5.0, Address("127.0.0.1", 9900))
    assert [str(address) for address in web.listen] == ["127.0.0.1:8080", "[::1]:8080", "unix:/run/web.sock"]
    assert (web.name, web.active, web.balance) == ("web", "v2", "round_robin")
    assert (web.connect_timeout, web.idle_timeout, web.max_connections) == (1.5, 600.0, 100)
    assert (health.type, health.path, health.owner) == ("command", "/healthz?full=1", "any")
    assert health.command == ("curl", "-f", "http://127.0.0.1:{port}/")
    assert 204 in health.status
    assert (health.interval, health.timeout, health.start_timeout) == (0.5, 1.0, 60.0)
    assert (health.rise, health.fall) == (2, 5)
    assert (drain.deadline, drain.stop_timeout, drain.keep_warm, drain.bake) == (0.0, 90.0, 3600.0, 30.0)
    assert (drain.stop_signal, drain.signal_at) == (Signals.SIGQUIT, "start")
    assert (v1.name, v1.command, v1.replicas, v1.output) == ("v1", ("./app", "{port}"), 4, "inherit")
    assert v1.env == {"A": "1", "B": "{version}"}
    assert [str(address) for address in web.versions["v2"].address] == ["10.0.0.5:9000", "db.internal:9000"]
    assert loaded.services["api"].versions["1"].command == ("./api", "$PORT")


def test_relative_paths_start_at_the_files_folder(
    everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    loaded = load(everything)

    assert loaded.path == everything
    assert loaded.state_dir == tmp_path / "state"
    assert loaded.admin.socket == tmp_path / "run/control.sock"
    assert loaded.services["web"].versions["v1"].cwd == tmp_path / "app"
    assert loaded.services["api"].versions["1"].cwd == tmp_path


def test_a_relative_path_to_the_file_gives_absolute_paths(
    minimal: str, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(minimal)
    monkeypatch.chdir(path.parent)

    loaded = load(Path("proxy.toml"))
    assert loaded.path == path
    assert loaded.services["web"].versions["v1"].cwd == path.parent


def test_empty_strings_mean_the_defaults(
    minimal: str, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    top = 'state_dir = ""\nadmin = { socket = "", listen = "" }\n'

    loaded = load(write_config(top + minimal))
    assert loaded.state_dir == tmp_path / "xdg/proxyctl"
    assert loaded.admin.socket == tmp_path / "xdg/proxyctl/control.sock"
    assert loaded.admin.listen is None


def test_without_a_runtime_directory_the_socket_follows_the_state_directory(
    minimal: str, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)

    assert load(write_config('state_dir = "s"\n' + minimal)).admin.socket == tmp_path / "s/control.sock"


def test_problems_come_in_the_order_of_the_file(problems_of: ProblemsOf, minimal: str) -> None:
    problems = problems_of(f'workers = -1\nadmin.listen = "x"\n{minimal}replicas = 0\nuser = "no-such-user"\n')

    assert [problem.line for problem in problems] == [1, 2, 8, 9]


def test_the_same_mistake_is_told_once(problems_of: ProblemsOf, minimal: str) -> None:
    problems = problems_of(minimal.replace("./app", "./app {prot} {prot}"))

    assert len(problems) == 1


def test_a_string_that_stands_for_a_list_is_not_shown_as_one(problems_of: ProblemsOf, minimal: str) -> None:
    (problem,) = problems_of(minimal.replace('"127.0.0.1:8080"', '"nonsense"'))

    assert (problem.key, problem.line, problem.column) == ("services.web.listen", 2, 10)


def test_the_message_ends_with_how_much_there_is_to_do(write_config: WriteConfig, minimal: str) -> None:
    with pytest.raises(ConfigError, match="2 errors in the config") as caught:
        load(write_config(f"workers = -1\nlame_duck = -1\n{minimal}"))

    assert caught.value.exit_code == 2


def test_warnings_have_places_and_do_not_count_as_errors(minimal: str, write_config: WriteConfig) -> None:
    examined = examine(write_config(f"{minimal}[services.web.drain]\ndeadline = 0\n"))

    assert examined.settings.services["web"].drain.deadline == 0
    assert [(warning.line, warning.key) for warning in examined.warnings] == [
        (5, "services.web.versions.v1.command"),
        (7, "services.web.drain.deadline"),
    ]


_TABLES = ("services", "web", "admin", "health", "drain", "versions", "v1", "env")
_LEAVES = ("name", "path", "listen", "active", "command", "cwd", "user", "address", "type", "replicas", "interval")
_MORE = ("status", "stop_signal", "socket", "state_dir", "workers", "unknown")
_KEYS = st.sampled_from(_TABLES + _LEAVES + _MORE)
_SCALARS = st.one_of(
    st.booleans().map(lambda value: str(value).lower()),
    st.integers(-5, 70_000).map(str),
    st.floats().map(repr),
    st.sampled_from(
        [
            '""',
            '"x"',
            '"127.0.0.1:80"',
            '"5s"',
            '"./app {port}"',
            '"unix:/a"',
            f'"{"x" * 5000}"',
            f'"{"9" * 5000}"',
            "1979-05-27",
            "07:32:00",
            '"\\u0000"',
        ]
    ),
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(_KEYS, inner, max_size=4).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
        ),
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(_KEYS, _VALUES, max_size=4), st.none() | st.dictionaries(_KEYS, _VALUES, max_size=6))
def test_whatever_the_file_says_the_answer_is_settings_or_problems_with_places(
    write_config: WriteConfig, top: dict[str, str], service: dict[str, str] | None
) -> None:
    lines = [f"{key} = {value}" for key, value in top.items() if service is None or key != "services"]
    if service is not None:
        lines += ["[services.web]", *(f"{key} = {value}" for key, value in service.items())]

    path = write_config("\n".join(lines))
    if service is None or not {"listen", "active", "versions"} <= service.keys():
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert caught.value.problems
        assert all(problem.line and problem.column and problem.message for problem in caught.value.problems)
    else:
        with suppress(ConfigError):
            load(path)
