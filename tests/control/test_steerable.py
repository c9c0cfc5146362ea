"""Whose listening sockets are found: of real processes, in a network namespace of each test's own."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio

from proxy.control import steerable
from proxy.kernel import pidfd, procfs, sock_diag
from proxy.kernel.bpf import BpfError
from tests.control.steered import isolated, start
from tests.control.world import World, world
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from proxy.control.backend import Backend
    from proxy.control.steerable import Sockets

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture(autouse=True)
def _isolation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with isolated(monkeypatch):
        yield


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as created:
        yield created


async def find(*backends: Backend) -> Sockets:
    with steerable.closing(await trio.to_thread.run_sync(steerable.find, backends)) as found:
        return found


def listening(backend: Backend) -> set[int]:
    return {each.inode for each in sock_diag.tcp_listeners(backend.address.port)}


async def test_each_socket_is_found_once_however_many_processes_hold_it(here) -> None:
    """Pre-forked servers: the master listens, and its children accept."""
    script = (
        "import os, socket, sys, pathlib\n"
        "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "os.fork() and os.fork()\n"
        "pathlib.Path(f'up{os.getpid()}').write_text('up')\n"
        "if not list(pathlib.Path().glob('v1')): pathlib.Path('v1').write_text('up\\n')\n"
        "s.accept()\n"
    )
    backend = await here.start(("python3", "-I", "-S", "-c", script, "{port}"))
    await here.text_of("v1")
    found = await find(backend)
    assert [each.inode for each in found.sockets] == list(listening(backend))
    assert found.why_not == ""


async def test_a_socket_that_only_a_child_holds_is_found(here) -> None:
    backend = await start(here, "v1", within=("setsid", "-w"))
    assert {each.inode for each in (await find(backend)).sockets} == listening(backend)


async def test_every_socket_of_a_server_with_several_is_found(here) -> None:
    backend = await start(here, "v1", "twice", "127.0.0.1", "::1")
    found = await find(backend)
    assert len(found.sockets) == 4
    assert sorted(tuple(each.families) for each in found.sockets) == sorted([(V4,), (V4,), (V6,), (V6,)])


async def test_what_others_listen_on_with_the_same_port_is_not_taken(here) -> None:
    backend = await start(here, "v1")
    with socket.create_server(("127.0.0.2", backend.address.port)):
        assert len(listening(backend)) == 2
        (found,) = (await find(backend)).sockets
    assert [found.inode] == list(listening(backend))


@pytest.mark.parametrize(
    ("address", "families"), [("127.0.0.1", {V4}), ("::1", {V6}), ("::", {V4, V6}), ("::ffff:127.0.0.1", {V4})]
)
async def test_whose_connections_a_socket_takes(here, address, families) -> None:
    """Java, for one, listens on IPv4 addresses by IPv6 sockets."""
    (found,) = (await find(await start(here, "v1", address))).sockets
    assert found.families == families


async def test_an_ipv6_socket_that_is_for_that_alone_gets_no_ipv4_clients() -> None:
    with socket.create_server(("::", 0), family=V6) as sock:
        (listener,) = sock_diag.tcp_listeners(sock.getsockname()[1])
        assert steerable._families(listener) == {V6}


async def test_replicas_take_turns(here) -> None:
    """So that those that are over the limit are not all of one of them."""
    backends = [await start(here, f"r{number}", "twice", replica=number) for number in range(2)]
    found = (await find(*backends)).sockets
    of = [[each.inode in listening(backend) for backend in backends] for each in found]
    assert of == [[True, False], [False, True]] * 2


async def test_copies_are_closed_so_that_no_dead_backends_queue_stays_open(here) -> None:
    backend = await start(here, "v1")
    with steerable.closing(await trio.to_thread.run_sync(steerable.find, [backend])) as found:
        (copy,) = found.sockets
        assert os.fstat(copy.sock.fileno()).st_ino == copy.inode
    assert copy.sock.fileno() == -1


async def test_a_descriptor_that_has_become_another_socket_is_not_taken(here, monkeypatch) -> None:
    """It was closed, and its number used again, between the look at it and the copy."""
    backend = await start(here, "v1")
    with socket.create_server(("127.0.0.1", 0)) as other:
        copies = []

        def duplicate(*_: object) -> int:
            copies.append(os.dup(other.fileno()))
            return copies[-1]

        monkeypatch.setattr(pidfd, "duplicate", duplicate)
        found = await find(backend)
        assert not found.sockets
        for each in copies:
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(each)


async def test_the_reason_says_what_is_in_the_way(here, monkeypatch) -> None:
    backend = await here.start(("sleep", "60"))
    port = backend.address.port
    assert (await find(backend)).why_not == f"no process of its backend is seen to listen on port {port}"
    elsewhere = await start(here, "v1", within=(need("unshare", package="util-linux"), "--net"))
    assert (await find(elsewhere)).why_not == "its backend is in another network namespace"


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EPERM, "may not be copied (pidfd_getfd): that needs CAP_SYS_PTRACE"), (errno.EMFILE, "Too many open")],
)
async def test_a_socket_that_cannot_be_copied_is_a_reason_and_no_crash(here, monkeypatch, number, said) -> None:
    backend = await start(here, "v1")

    def duplicate(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pidfd, "duplicate", duplicate)
    found = await find(backend)
    assert not found.sockets
    assert said in found.why_not


async def test_a_failure_half_way_leaves_no_copy_open(here, monkeypatch) -> None:
    first, second = await start(here, "r0"), await start(here, "r1", replica=1)
    duplicate, copies = pidfd.duplicate, []

    def duplicate_one(*args: object) -> int | None:
        if copies:
            raise OSError(errno.EMFILE, "no more")
        copies.append(duplicate(*args))  # type: ignore[arg-type]
        return copies[-1]

    monkeypatch.setattr(pidfd, "duplicate", duplicate_one)
    found = await find(first, second)
    assert not found.sockets
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(copies[0])


async def test_one_process_that_may_not_be_looked_into_is_no_reason_if_another_one_may(here, monkeypatch) -> None:
    """A child that has made itself undumpable, and holds the same socket."""
    script = "import os, socket, sys, pathlib\ns = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
    script += "os.fork() or s.accept()\npathlib.Path('v1').write_text('up\\n')\ns.accept()\n"
    backend = await here.start(("python3", "-I", "-S", "-c", script, "{port}"))
    await here.text_of("v1")
    duplicate, refused = pidfd.duplicate, []

    def duplicate_second(identity: procfs.ProcessId, number: int) -> int | None:
        if not refused:
            refused.append(identity)
            raise PermissionError(errno.EPERM, "not dumpable")
        return duplicate(identity, number)

    monkeypatch.setattr(pidfd, "duplicate", duplicate_second)
    assert len((await find(backend)).sockets) == 1


async def test_a_proc_that_cannot_be_read_is_a_reason_and_no_crash(here, monkeypatch) -> None:
    backend = await here.start(("sleep", "60"))

    def tree() -> NoReturn:
        raise OSError(errno.EMFILE, "no more")

    with monkeypatch.context() as broken:
        broken.setattr(backend, "tree", tree)
        assert (await find(backend)).why_not == "the backend's socket cannot be copied: no more"


def test_why_the_program_is_not_there_is_said_in_words() -> None:
    refused = steerable.explain(BpfError(errno.EPERM, "make the map listeners"))
    assert "CAP_BPF and CAP_NET_ADMIN" in refused
    rejected = steerable.explain(BpfError(errno.EACCES, "load the program", log="R1 invalid"))
    assert "R1 invalid" in rejected
    full = steerable.explain(OSError(errno.ENOSPC, "No space left on device"))
    assert full == "the program cannot be put in place: No space left on device"


def test_nothing_at_all_is_no_reason() -> None:
    assert steerable.why_not([]) == ""
    assert steerable.find([]) == steerable.Sockets([])
    steerable.close([])
