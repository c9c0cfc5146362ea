"""What another control process finds, and what a failure leaves, in a BPF file system of each test's own."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from typing import TYPE_CHECKING, NoReturn

import pytest

from proxy.control.steer_table import Counts, ServiceEntry, Slot, SteerTable
from proxy.kernel import bpf, bpffs, sk_lookup
from proxy.kernel.bpf import BpfError, Link
from tests.control.steered import isolated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LISTENER = (int(socket.AF_INET), "127.0.0.1", 8080)


def goes_away(program: int) -> bool:
    """Whether the kernel lets go of it, which it does a moment after its last name."""
    for _ in range(1000):
        if program not in bpf.programs(sk_lookup.PROGRAM):
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with isolated(monkeypatch):
        yield bpffs.pin_folder_root / "test-1"
        bpffs.remove_folder(bpffs.pin_folder_root / "test-1")


@pytest.fixture
def table(folder: Path) -> Iterator[SteerTable]:
    made = SteerTable.make(folder)
    yield made
    made.close()


def test_another_process_finds_what_was_put_down(table: SteerTable, folder: Path) -> None:
    table.point(LISTENER, 3)
    table.set_service(3, 7, "web")
    table.set_slot(7, Slot(1, 0, 3, 12, 0x5A000006))
    table.close()
    found = SteerTable.open(folder)
    assert list(found.addresses()) == [(LISTENER, 3)]
    assert found.service(3) == ServiceEntry(7, "web")
    assert found.service(4) == ServiceEntry(0, "")
    assert found.slot(7) == Slot(1, 0, 3, 12, 0x5A000006)
    assert found.counts(7) == Counts(0, 0)
    found.close()


def test_a_slot_that_is_given_to_another_generation_begins_at_zero(table: SteerTable) -> None:
    table.set_slot(7, Slot(1, 1, 3, 12, 1))
    table._maps.counters.update(sk_lookup.index(7), Counts(5, 6).pack())
    assert table.counts(7) == Counts(5, 6)
    table.clear_slot(7)
    assert (table.slot(7), table.counts(7)) == (Slot(0, 0, 0, 0, 0), Counts(0, 0))


def test_an_address_or_a_socket_that_is_gone_is_no_error(table: SteerTable) -> None:
    table.point(LISTENER, 0)
    table.leave_alone(LISTENER)
    table.leave_alone(LISTENER)
    assert list(table.addresses()) == []
    with socket.create_server(("127.0.0.1", 0)) as sock:
        table.put_socket(1, socket.AF_INET, 0, sock.fileno())
    table.drop_socket(1, socket.AF_INET, 0)
    table.drop_socket(1, socket.AF_INET6, 63)


def test_two_programs_never_stay_of_one_folder(table: SteerTable, folder: Path) -> None:
    before = table._link.info().program
    table.close()
    with contextlib.closing(SteerTable.make(folder)) as again:
        assert again._link.info().program != before
        assert goes_away(before)


@pytest.mark.parametrize("step", ["attach", "pin"])
def test_what_cannot_be_finished_leaves_nothing(folder: Path, monkeypatch, step) -> None:
    def fail(*_: object) -> NoReturn:
        raise BpfError(errno.EPERM, "go on")

    monkeypatch.setattr(*((sk_lookup, "attach", fail) if step == "attach" else (Link, "pin", fail)))
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BpfError):
        SteerTable.make(folder)
    assert not folder.exists()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_maps_without_a_program_are_not_taken_for_one(table: SteerTable, folder: Path) -> None:
    """Another control process would say that it steers, and nothing would be."""
    descriptors = len(os.listdir("/proc/self/fd"))
    (folder / "link").unlink()
    with pytest.raises(BpfError) as missing:
        SteerTable.open(folder)
    assert missing.value.errno == errno.ENOENT
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_program_that_was_detached_is_not_taken_for_one_at_work(table: SteerTable, folder: Path) -> None:
    table._link.detach()
    with pytest.raises(BpfError, match="it is detached"):
        SteerTable.open(folder)


@pytest.mark.parametrize("content", ["nothing", "another map"])
def test_a_folder_of_something_else_is_an_error_of_the_system(folder: Path, content) -> None:
    bpffs.make_folder(folder)
    if content == "another map":
        with bpf.Map.create(bpf.MapType.ARRAY, 4, 4, 1, name="listeners") as other:
            other.pin(folder / "listeners")
    with pytest.raises(BpfError, match="test-1"):
        SteerTable.open(folder)


def test_detached_the_program_is_gone_and_the_maps_can_be_read(table: SteerTable, folder: Path) -> None:
    table.set_slot(7, Slot(1, 0, 3, 12, 1))
    program = table._link.info().program
    table.detach()
    assert goes_away(program)
    assert table.slot(7).generation == 12


def test_detached_where_bpf_does_not_work_any_more_it_has_no_pin(table: SteerTable, folder: Path, monkeypatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise BpfError(errno.EPERM, "detach the program")

    monkeypatch.setattr(Link, "detach", fail)
    table.detach()
    assert not (folder / "link").exists()


def test_a_dead_backend_leaves_no_socket_behind(table: SteerTable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        table.put_socket(200, socket.AF_INET6, 63, sock.fileno())
        table.set_slot(200, Slot(0, 64, 0, 1, 1))
        assert table.has_sockets()
    assert not table.has_sockets()
