from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proxy.kernel import bpf, bpffs
from proxy.kernel.bpf import BpfError, Link, Map, MapType
from proxy.kernel.bpf_assembly import Register, leave, mov
from tests.isolation import bpf_file_system, need_bpf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = 65534


def number(value: int) -> bytes:
    return struct.pack("=I", value)


@pytest.fixture(autouse=True)
def _allowed() -> None:
    need_bpf()


@pytest.fixture
def table() -> Iterator[Map]:
    with Map.create(MapType.HASH, 4, 8, 100, flags=bpf.NO_PREALLOC, name="test.table") as table:
        yield table


@pytest.fixture
def folder() -> Iterator[Path]:
    with bpf_file_system() as folder:
        yield folder


def test_what_is_put_into_a_map_is_found_until_it_is_taken_out(table: Map) -> None:
    assert table.lookup(number(7)) is None
    table.update(number(7), b"first...")
    table.update(number(7), b"\0\1second")
    assert table.lookup(number(7)) == b"\0\1second"
    assert table.delete(number(7))
    assert not table.delete(number(7))
    assert table.lookup(number(7)) is None


def test_a_map_that_was_opened_knows_what_it_is(table: Map) -> None:
    again = Map(os.dup(table.fd))
    with again:
        assert (again.kind, again.key_size, again.value_size, again.entries) == (MapType.HASH, 4, 8, 100)
        assert again.name == "test.table"


def test_every_key_is_seen_once(table: Map) -> None:
    assert list(table) == []
    keys = {number(each) for each in range(100)}
    for key in keys:
        table.update(key, bytes(8))
    found = list(table)
    assert len(found) == 100
    assert set(found) == keys


def test_keys_that_vanish_meanwhile_end_no_walk_and_show_no_other_key_twice(table: Map) -> None:
    keys = [number(each) for each in range(100)]
    for key in keys:
        table.update(key, bytes(8))
    found = []
    for key in table:
        found.append(key)
        assert table.delete(key)
    assert sorted(found) == sorted(keys)


def test_a_full_map_says_so(table: Map) -> None:
    for each in range(100):
        table.update(number(each), bytes(8))
    with pytest.raises(BpfError, match=r"cannot update an entry of test\.table") as caught:
        table.update(number(100), bytes(8))
    assert caught.value.errno == errno.E2BIG
    assert caught.value.log == ""


def test_bytes_of_the_wrong_length_never_reach_the_kernel(table: Map) -> None:
    with pytest.raises(ValueError, match="4 bytes, not 3"):
        table.lookup(b"abc")
    with pytest.raises(ValueError, match="8 bytes, not 9"):
        table.update(number(1), bytes(9))
    with pytest.raises(ValueError, match="15 characters"):
        Map.create(MapType.HASH, 4, 8, 1, name="x" * 16)


def test_an_array_has_all_its_entries_from_the_start() -> None:
    with Map.create(MapType.ARRAY, 4, 8, 3, name="array") as array:
        assert array.lookup(number(2)) == bytes(8)
        assert array.lookup(number(3)) is None
        assert list(array) == [number(0), number(1), number(2)]
        with pytest.raises(BpfError) as caught:
            array.delete(number(0))
        assert caught.value.errno == errno.EINVAL


def test_a_socket_leaves_its_map_when_it_is_closed_wherever_its_duplicates_were_closed_before() -> None:
    with Map.create(MapType.SOCKMAP, 4, 8, 2, name="sockets") as sockets:
        listener = socket.create_server(("127.0.0.1", 0))
        duplicate = os.dup(listener.fileno())
        sockets.update(number(1), struct.pack("=Q", duplicate))
        os.close(duplicate)
        cookie = listener.getsockopt(socket.SOL_SOCKET, 57, 8)  # SO_COOKIE
        assert sockets.lookup(number(1)) == cookie
        listener.close()
        assert sockets.lookup(number(1)) is None
        assert not sockets.delete(number(1))


def test_only_sockets_that_listen_can_be_put_into_a_map() -> None:
    with Map.create(MapType.SOCKMAP, 4, 8, 2, name="sockets") as sockets, socket.socket() as unbound:
        with pytest.raises(BpfError, match="cannot update an entry of sockets"):
            sockets.update(number(0), struct.pack("=Q", unbound.fileno()))
        with open(os.devnull) as no_socket, pytest.raises(BpfError):
            sockets.update(number(0), struct.pack("=Q", no_socket.fileno()))


def test_the_error_has_the_verifiers_reason_for_refusing_a_program() -> None:
    with pytest.raises(BpfError, match="cannot load the program bad: Permission denied; the verifier says:") as caught:
        bpf.load([leave()], name="bad")
    assert "R0 !read_ok" in caught.value.log
    assert "R0 !read_ok" in str(caught.value)
    assert caught.value.errno == errno.EACCES


def test_a_program_is_listed_by_its_name_until_nobody_holds_it() -> None:
    name = f"test_{os.getpid()}"
    assert bpf.programs(name) == []
    loaded = bpf.load([mov(Register.R0, 1), leave()], name=name)
    assert len(bpf.programs(name)) == 1
    os.close(loaded)
    assert bpf.programs(name) == []


def test_children_inherit_no_descriptor(table: Map, folder: Path) -> None:
    table.pin(folder / "table")
    loaded = bpf.load([mov(Register.R0, 1), leave()], name="test")
    with Map.open(folder / "table") as opened:
        assert not any(os.get_inheritable(each) for each in (table.fd, opened.fd, loaded))
    os.close(loaded)


def test_a_process_without_privileges_is_told_what_it_may_not() -> None:
    program = f"""
import os
from proxy.kernel.bpf import Map, MapType, BpfError
os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
try:
    Map.create(MapType.SOCKMAP, 4, 8, 2, name="sockets")
except BpfError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "cannot make the map sockets: Operation not permitted\n"


def test_what_is_pinned_outlives_the_process_that_made_it(folder: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from proxy.kernel.bpf import Map, MapType
table = Map.create(MapType.HASH, 4, 8, 100, name="table")
table.update(b"key.", b"survives")
table.pin(Path("{folder}/table"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, pass_fds=[int(folder.name)])
    assert done.returncode == -9
    with Map.open(folder / "table") as found:
        assert found.lookup(b"key.") == b"survives"
    assert stat.S_IMODE((folder / "table").stat().st_mode) == 0o600


def test_a_pin_is_neither_taken_over_nor_invented(table: Map, folder: Path) -> None:
    table.pin(folder / "table")
    with pytest.raises(BpfError, match=r"cannot pin at .*/table: File exists"):
        table.pin(folder / "table")
    with pytest.raises(BpfError, match=r"cannot open .*/other: No such file or directory"):
        Map.open(folder / "other")
    with pytest.raises(BpfError, match=r"cannot open .*/table as a link: Invalid argument"):
        Link.open(folder / "table")


def test_a_folder_on_a_disk_takes_no_pins(table: Map, tmp_path: Path) -> None:
    with pytest.raises(BpfError, match="cannot pin at"):
        table.pin(tmp_path / "table")
    assert not bpffs.is_mounted(tmp_path)
    assert not bpffs.is_mounted(tmp_path / "missing")


def test_a_folder_of_pins_is_for_its_owner_alone_and_goes_with_all_that_is_in_it(table: Map, folder: Path) -> None:
    assert bpffs.is_mounted(folder)
    place = folder / "proxyctl" / "one"
    bpffs.make_folder(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    table.pin(place / "table")
    bpffs.remove_folder(place)
    assert list((folder / "proxyctl").iterdir()) == []
    bpffs.remove_folder(place)
