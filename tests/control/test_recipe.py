from __future__ import annotations

import os
from pathlib import Path

from proxy.config.settings import Version
from proxy.control import recipe
from proxy.control.launch import User
from proxy.control.mark import Mark
from proxy.core.address import Address

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
