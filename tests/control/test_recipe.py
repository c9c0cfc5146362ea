from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config.settings import Version
from proxy.control import recipe
from proxy.control.launch import User
from proxy.control.mark import Mark
from proxy.core.address import Address

if TYPE_CHECKING:
    import pytest

MARK = Mark("boot:1:2:/state", "web", 3, 1)
LOCAL = Address(host="127.0.0.1", port=20001)


def test_the_environment_is_ours_then_the_proxys_words_then_the_configs() -> None:
    version = Version(name="v1", command="app", cwd=Path("/"), env={"HOME": "/data/{version}", "PORT": "80"})
    user = User(name="app", uid=1, gid=1, groups=(), environment={"HOME": "/home/app", "USER": "app"})
    environment = recipe.subject(version, MARK, LOCAL, 20001, user).env
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["USER"] == "app"
    assert (environment["HOME"], environment["PORT"]) == ("/data/v1", "80")
    assert MARK.is_marked(environment)


def test_a_backend_on_a_socket_has_no_port_of_ours_in_its_environment() -> None:
    version = Version(name="v1", command="app {socket}", cwd=Path("/"))
    subject = recipe.subject(version, MARK, Address(path="/s/web.sock"), None, None)
    assert subject.env.get("PORT") == os.environ.get("PORT")
    assert subject.values.fill("{socket} {port}") == "/s/web.sock {port}"


def test_output_goes_to_a_file_per_generation_and_replica_unless_it_is_inherited(tmp_path: Path) -> None:
    version = Version(name="v1", command="app", cwd=Path("/"))
    log_file = recipe.log_file(version, MARK, tmp_path)
    assert log_file
    assert log_file.path == tmp_path / "output" / "web" / "v1" / "3.1.log"
    assert recipe.log_file(version.model_copy(update={"output": "inherit"}), MARK, tmp_path) is None


def test_what_a_service_manager_told_the_proxy_is_not_told_to_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES"):
        monkeypatch.setenv(name, "1")
    environment = recipe.subject(Version(name="v1", command="app", cwd=Path("/")), MARK, LOCAL, 20001, None).env
    assert not {name for name in environment if name.startswith(("NOTIFY_", "WATCHDOG_", "LISTEN_"))}


def test_a_backend_with_the_public_listener_has_its_number_and_no_port() -> None:
    version = Version(name="v1", command="app", cwd=Path("/"), env={"FD": "fd://{fd}"})
    subject = recipe.subject(version, MARK, LOCAL, None, None, 3)
    assert subject.env["FD"] == "fd://3"
    assert subject.env.get("PORT") == os.environ.get("PORT")
    assert subject.values.fill("{fd} {port}") == "3 {port}"
    assert recipe.subject(version, MARK, LOCAL, 20001, None).values.fill("{fd}") == "{fd}"


def test_a_backend_is_told_how_many_listeners_it_has_and_whose_they_are() -> None:
    assert recipe.service_manager(MARK, 2, Path("/s/web.notify")) == {
        "LISTEN_FDS": "2",
        "LISTEN_FDNAMES": "web:web",
        "NOTIFY_SOCKET": "/s/web.notify",
    }
