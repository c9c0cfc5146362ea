"""The verbs of proxyctl have to find the proxy that runs, whatever state its config is in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.config import admin_socket, find, paths
from proxy.errors import ConfigError, UsageError


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An ordinary user, with an empty home and no XDG variables."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path


def test_root_keeps_its_state_where_services_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    assert paths.default_state_dir() == Path("/var/lib/proxyctl")
    assert paths.default_socket(Path("/elsewhere")) == Path("/run/proxyctl/control.sock")


def test_users_keep_their_state_at_home(as_user: Path) -> None:
    assert paths.default_state_dir() == as_user / ".local/state/proxyctl"
    assert paths.default_socket(Path("/state")) == Path("/state/control.sock")


def test_xdg_variables_are_heeded_unless_they_are_relative(as_user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg/state")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert paths.default_state_dir() == Path("/xdg/state/proxyctl")
    assert paths.default_socket(Path("/state")) == Path("/run/user/1000/proxyctl/control.sock")

    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    assert paths.default_state_dir() == as_user / ".local/state/proxyctl"
    assert paths.default_socket(Path("/state")) == Path("/state/control.sock")


def test_a_user_without_a_home_is_told_what_to_set(as_user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UsageError) as caught:
        paths.default_state_dir()
    assert "state_dir" in caught.value.hint

    path = as_user / "proxy.toml"
    path.write_text('state_dir = "s"')
    assert admin_socket(path) == as_user / "s/control.sock"


@pytest.mark.parametrize(
    ("text", "socket"),
    [
        ('admin.socket = "a.sock"', "a.sock"),
        ('admin = { socket = "/run/a.sock" }', "/run/a.sock"),
        ('state_dir = "s"', "s/control.sock"),
        ('state_dir = "s"\nadmin.socket = "a.sock"', "a.sock"),
        ('state_dir = "s"\nadmin.socket = ""', "s/control.sock"),
        ("", ".local/state/proxyctl/control.sock"),
        ("state_dir = 5\nadmin = 5", ".local/state/proxyctl/control.sock"),
        ("\ufeffunknown_key = 1\nadmin.socket = 5", ".local/state/proxyctl/control.sock"),
    ],
)
def test_the_socket_is_found_in_a_config_that_is_not_valid(as_user: Path, text: str, socket: str) -> None:
    path = as_user / "proxy.toml"
    path.write_text(text)

    assert admin_socket(path) == as_user / socket


@pytest.mark.parametrize("content", [b"admin.socket = ", b"\xff", b"a = " + b"[" * 100_000])
def test_a_config_that_is_no_toml_leads_nowhere_quietly(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "proxy.toml"
    path.write_bytes(content)

    assert admin_socket(path) is None
    assert admin_socket(tmp_path / "missing.toml") is None
    assert admin_socket(tmp_path) is None


def test_the_config_that_is_named_is_the_config() -> None:
    assert find("elsewhere.toml") == Path("elsewhere.toml")


def test_the_working_directory_comes_before_etc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "PLACES", (Path("proxy.toml"), tmp_path / "etc.toml"))

    with pytest.raises(ConfigError) as caught:
        find()
    assert str(tmp_path / "proxy.toml") in caught.value.message
    assert str(tmp_path / "etc.toml") in caught.value.message
    assert "proxyctl demo" in caught.value.message
    assert "conf/" in caught.value.message

    (tmp_path / "etc.toml").touch()
    assert find() == tmp_path / "etc.toml"
    (tmp_path / "proxy.toml").touch()
    assert find() == Path("proxy.toml")


def test_finding_the_socket_does_not_pay_for_validation() -> None:
    code = "import sys; from proxy.config import admin_socket, find; sys.exit('pydantic' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_first_steps_that_are_proposed_work(tmp_path: Path) -> None:
    from proxy.config import load

    _, _, example = paths.HOW_TO_BEGIN.partition(":\n    ")
    path = tmp_path / "proxy.toml"
    path.write_text(example)
    assert load(path).services["web"].active == "v1"
