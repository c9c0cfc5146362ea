from __future__ import annotations

import os
import pwd
import stat
from typing import TYPE_CHECKING

import pytest

from proxy.control import sockets
from proxy.control.launch import User
from proxy.core.address import Address

if TYPE_CHECKING:
    from pathlib import Path


def test_a_stale_socket_of_a_crashed_run_is_out_of_the_way(tmp_path: Path) -> None:
    path = sockets.make_path(tmp_path, "web", 1, 0, None)
    assert path == tmp_path / "sockets" / "web.1.0.sock"
    path.touch()
    assert sockets.make_path(tmp_path, "web", 1, 0, None) == path
    assert not path.exists()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_path_that_is_too_long_moves_to_a_private_folder_that_is_removed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))  # TMPDIR can be long as well
    path = sockets.make_path(long, "web", 1, 0, None)
    assert len(os.fsencode(path)) <= 107
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.touch()
    sockets.remove(Address(path=str(path)))
    assert not path.parent.exists()


def test_what_a_backend_keeps_beside_its_socket_is_not_deleted(tmp_path: Path) -> None:
    path = sockets.make_path(tmp_path / ("x" * 100), "web", 1, 0, None)
    (path.parent / "data").touch()
    try:
        sockets.remove(Address(path=str(path)))
        assert (path.parent / "data").exists()
    finally:
        (path.parent / "data").unlink()
        path.parent.rmdir()


def test_a_tcp_address_has_nothing_to_remove() -> None:
    sockets.remove(Address(host="127.0.0.1", port=1))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_another_user_gets_a_folder_that_it_may_write_to(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    user = User(name="nobody", uid=nobody.pw_uid, gid=nobody.pw_gid, groups=())
    path = sockets.make_path(tmp_path, "web", 1, 0, user)
    try:
        assert path.parent.stat().st_uid == nobody.pw_uid
    finally:
        path.parent.rmdir()
