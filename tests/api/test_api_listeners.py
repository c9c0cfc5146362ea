"""The control socket: nobody else may use it, nobody's is taken away, and none is left behind."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from proxy.api.listeners import tcp_listener, unix_listener
from proxy.core.address import Address
from proxy.errors import AddressInUseError, ProxyError
from proxy.kernel.unixpath import reachable

if TYPE_CHECKING:
    from pathlib import Path


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client, reachable(path) as name:
        client.connect(name)


def leave_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_only_the_owner_may_use_it_from_the_first_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    class Watched(socket.socket):
        def listen(self, *args: int) -> None:
            modes.append(stat.S_IMODE(path.lstat().st_mode))
            super().listen(*args)

    monkeypatch.setattr(socket, "socket", Watched)
    path = tmp_path / "new" / "control.sock"
    before = os.umask(0)
    try:
        with unix_listener(path):
            connect(path)
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()


def test_the_file_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    leave_stale(path)
    with unix_listener(path):
        connect(path)


def test_a_living_proxy_keeps_its_socket_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with unix_listener(path):
        with pytest.raises(AddressInUseError) as raised, unix_listener(path):
            pass
        connect(path)
    assert f"pid {os.getpid()} (" in raised.value.message
    assert str(os.getpid()) in raised.value.message
    assert raised.value.exit_code == 1


def test_a_busy_proxy_is_not_taken_for_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(AddressInUseError, match="does not answer"), unix_listener(path):
            pass
        assert path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(AddressInUseError, match="not a socket"), unix_listener(path):
        pass
    assert path.read_text() == "precious"


def test_the_file_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with unix_listener(path):
        path.unlink()
        leave_stale(path)
    assert path.exists()


def test_a_path_of_any_length_works(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["x" * 50] * 4) / "control.sock"
    assert len(os.fsencode(path)) > 107
    for _ in range(2):
        with unix_listener(path):
            connect(path)
            with pytest.raises(AddressInUseError), unix_listener(path):
                pass
        assert not path.exists()


def test_a_folder_that_cannot_be_made_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProxyError) as raised, unix_listener(tmp_path / "file" / "control.sock"):
        pass
    assert "cannot listen on the control socket" in raised.value.message
    assert "--socket" in raised.value.hint


def test_a_taken_port_is_named() -> None:
    with tcp_listener(Address("127.0.0.1", 0)) as first:
        address = Address("127.0.0.1", first.getsockname()[1])
        with pytest.raises(AddressInUseError, match=f"admin.listen = {address}"), tcp_listener(address):
            pass
