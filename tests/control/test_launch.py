from __future__ import annotations

import errno
import os
import pwd
from typing import TYPE_CHECKING

import pytest

from proxy.control import launch
from proxy.control.output import LogFile
from proxy.control.trouble import Troubles
from proxy.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_user_comes_with_its_groups_and_what_programs_look_for() -> None:
    this = pwd.getpwuid(os.geteuid())
    for name in (this.pw_name, str(this.pw_uid)):
        user = launch.find_user(name)
        assert (user.name, user.uid, user.gid) == (this.pw_name, this.pw_uid, this.pw_gid)
        assert user.gid in user.groups
        assert user.environment == {"HOME": this.pw_dir, "USER": this.pw_name, "LOGNAME": this.pw_name}


def test_without_root_another_user_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StartError, match="only root may start processes of other users") as caught:
        launch.find_user("nobody")
    assert "leave `user` out" in caught.value.hint


def test_an_unknown_user_is_named() -> None:
    with pytest.raises(StartError, match='there is no user "nobody-of-that-name"'):
        launch.find_user("nobody-of-that-name")


async def test_a_backend_starts_although_its_output_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "web").touch()  # a file where a folder has to be
    troubles = Troubles()
    log_file = LogFile(tmp_path / "web" / "v1" / "1.0.log", troubles)
    process = await launch.launch(("sleep", "60"), env=os.environ, cwd=tmp_path, user=None, log_file=log_file)
    prints_to = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in (1, 2)]
    process.kill()
    await process.wait()
    assert prints_to == ["/dev/null", "/dev/null"]
    (trouble,) = troubles.describe()
    assert trouble["message"] == "what a backend prints is not kept (output/web/v1/1.0.log): Not a directory"
    assert "proxyctl restart" in trouble["hint"]
    assert log_file.tail(5) == ()


async def test_without_descriptors_a_backend_does_not_start_and_the_error_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    log_file = LogFile(tmp_path / "1.0.log")
    monkeypatch.setattr(log_file, "open", fail)
    with pytest.raises(StartError, match=r"cannot write the output of the backend to .*1\.0\.log: Too many open files"):
        await launch.launch(("true",), env=os.environ, cwd=tmp_path, user=None, log_file=log_file)
