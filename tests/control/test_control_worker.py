"""Workers that are started, and found again by the next control process: real ones."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from proxy import __version__, wire
from proxy.control import worker
from proxy.control.process import Adopted
from proxy.control.state import ProcessRecord
from proxy.errors import WorkerVersionError
from proxy.kernel import procfs, unixpath
from tests.control.pools import SERVICE, Backends, Lives, freeze, greeted_by, route, thaw, until, visit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def folder_of(here: Lives) -> list[str]:
    return sorted(path.name for path in worker.folder_of(here.folder).iterdir())


async def test_workers_are_found_again_with_all_that_they_serve(
    here: Lives, backends: Backends, listener: socket.socket
) -> None:
    first = await here.begin(2)
    await first.pool.listen(SERVICE, {"a": listener})
    followed = route(3, await backends.start(b"one"), max_connections=7)
    await first.pool.route(followed)
    clients = [await visit(listener) for _ in range(5)]
    before = {each.identity for each in first.pool.workers}
    await first.crash()
    assert {await client.ask() for client in clients} == {b"one"}, "bytes move on without control"
    assert await greeted_by(listener) == {b"one"}, "and new connections are served"

    found = await here.find()
    assert {each.identity for each in found} == before
    assert [each.index for each in found] == [0, 1]
    assert all(each.was_found and each.release == __version__ for each in found)
    for each in found:
        assert each.listening == {SERVICE: {"a"}}
        assert each.listeners[SERVICE]["a"].getsockname() == listener.getsockname()
        serving = each.serving[SERVICE].route
        assert serving
        assert (serving.generation, serving.version, serving.endpoints) == (3, "v3", followed.endpoints)
    assert sum(each.serving[SERVICE].connections.get(3, 0) for each in found) in (5, 6), "one has just left"

    second = await here.begin(2, found)
    assert {each.identity for each in second.pool.workers} == before
    await second.pool.add(route(4, await backends.start(b"two")), {"a": listener})
    await until(lambda: second.pool.remaining(SERVICE, 3) == 5)
    assert await greeted_by(listener, 5) == {b"two"}
    assert {await client.ask() for client in clients} == {b"one"}
    for client in clients:
        await client.close()
    with trio.fail_after(20):
        await second.pool.drained(SERVICE, 3, lambda left: None)


async def test_a_worker_that_is_found_is_replaced_when_it_dies(
    here: Lives, backends: Backends, listener: socket.socket
) -> None:
    first = await here.begin()
    await first.crash()
    second = await here.begin(1, await here.find())
    await second.pool.add(route(1, await backends.start(b"one")), {"a": listener})
    (old,) = second.pool.workers
    assert isinstance(old.process, Adopted)
    old.process.kill()
    with trio.fail_after(20):
        await old.ended.wait()
    assert await greeted_by(listener) == {b"one"}
    assert second.pool.restarts == 1


async def test_control_that_stops_in_order_leaves_no_worker_and_no_socket(here: Lives) -> None:
    first = await here.begin(2)
    pids = [each.pid for each in first.pool.workers]
    assert folder_of(here) == ["0.0.sock", "1.0.sock"]
    await first.end()
    assert folder_of(here) == []
    assert not [pid for pid in pids if procfs.identify(pid)]
    assert await here.find() == []


async def test_more_workers_than_places_go_on_without_one(
    here: Lives, backends: Backends, listener: socket.socket
) -> None:
    first = await here.begin(2)
    await first.pool.add(route(1, await backends.start(b"one")), {"a": listener})
    clients = [await visit(listener) for _ in range(6)]
    await first.crash()
    second = await here.begin(1, await here.find())
    assert (len(second.pool.workers), len(second.pool.surplus)) == (2, 1)
    assert {await client.ask() for client in clients} == {b"one"}
    for client in clients:
        await client.close()


async def test_the_socket_of_a_worker_that_is_gone_is_removed_and_the_others_are_found(here: Lives) -> None:
    first = await here.begin(2)
    gone, living = first.pool.workers
    await first.crash()
    gone.process.kill()
    await gone.process.wait()
    assert folder_of(here) == ["0.0.sock", "1.0.sock"]
    (found,) = await here.find()
    assert found.identity == living.identity
    assert folder_of(here) == ["1.0.sock"]


async def test_a_worker_that_is_stuck_is_not_among_the_found_and_holds_nobody_up(
    here: Lives, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = await here.begin(2)
    stuck, living = first.pool.workers
    await first.crash()
    freeze(stuck)
    monkeypatch.setattr(worker, "INTRODUCTION_TIMEOUT", 0.3)
    (found,) = await here.find()
    assert found.identity == living.identity
    assert "a worker runs, but does not answer" in caplog.messages
    assert folder_of(here) == ["0.0.sock", "1.0.sock"], "it may come to itself"
    found.stream.close()
    thaw(stuck)
    monkeypatch.setattr(worker, "INTRODUCTION_TIMEOUT", 10.0)
    again = await here.find()
    assert {each.identity for each in again} == {stuck.identity, living.identity}


# Where the folder cannot take a socket.


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Paths can no longer be bound to, as on a disk that is read-only."""

    def begin() -> None:
        def refuse(path: Path) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        bind = unixpath.reachable
        monkeypatch.setattr(worker.unixpath, "reachable", lambda path: bind(path) if path.exists() else refuse(path))

    return begin


async def test_on_a_disk_that_is_read_only_a_worker_has_an_abstract_name_and_is_found_by_it(
    here: Lives, backends: Backends, listener: socket.socket, read_only: Callable[[], None]
) -> None:
    read_only()
    first = await here.begin()
    (started,) = first.pool.workers
    assert (started.path, folder_of(here)) == (None, [])
    assert "abstract names" in first.troubles.message("workers")
    await first.pool.add(route(1, await backends.start(b"one")), {"a": listener})
    client = await visit(listener)
    record = ProcessRecord(pid=started.pid, start_time=started.started, socket=started.name)
    await first.crash()

    found = await here.find(record)
    assert [each.identity for each in found] == [started.identity]
    assert (found[0].path, found[0].name) == (None, started.name), "so that it is on record again"
    second = await here.begin(1, found)
    await second.pool.add(route(1, await backends.start(b"one")), {"a": listener})
    assert await client.ask() == b"one"
    await client.close()


async def test_as_soon_as_the_disk_is_well_workers_have_paths_again(
    here: Lives, read_only: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context():
        read_only()
        first = await here.begin()
    monkeypatch.undo()
    assert first.troubles.message("workers")
    (old,) = first.pool.workers
    old.process.kill()
    with trio.fail_after(20):
        await old.ended.wait()
        while not first.pool.workers:
            await trio.sleep(0.01)
    assert folder_of(here) == ["0.0.sock"]
    assert not first.troubles.message("workers")


async def test_an_abstract_name_that_nobody_listens_on_any_more_is_no_worker(here: Lives) -> None:
    gone = ProcessRecord(pid=2, start_time=3, socket=b"no such name".hex())
    assert await here.find(gone) == []


# Other releases, and others altogether.


class Stranger:
    """Listens where a worker would, and says `words` to whoever comes."""

    def __init__(self, path: Path, *words: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.heard = b""
        self._words = words
        self._listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._path = path

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self._listener as door:
            await door.bind(str(self._path))
            door.listen(8)
            task_status.started()
            control, _ = await door.accept()
            with control:
                for each in self._words:
                    await control.send(each)
                self.heard = await control.recv(wire.MAX_MESSAGE)


async def test_a_worker_of_a_release_that_cannot_be_talked_to_stops_everything_before_anything_is_changed(
    here: Lives, nursery: trio.Nursery
) -> None:
    first = await here.begin(2)
    gone, ours = first.pool.workers
    await first.crash()
    gone.process.kill()
    await gone.process.wait()
    gone.forget_socket()
    hello = wire.Hello(wire.VERSION + 1, os.getpid(), "9.9.9")
    stranger = Stranger(worker.folder_of(here.folder) / "0.0.sock", wire.encode(hello))
    await nursery.start(stranger.run)
    with pytest.raises(WorkerVersionError, match=r"9\.9\.9") as caught:
        await here.find()
    assert str(os.getpid()) in caught.value.message
    await trio.testing.wait_all_tasks_blocked()
    assert stranger.heard == b"", "it was not asked for anything"
    assert folder_of(here) == ["0.0.sock", "1.0.sock"]
    assert procfs.is_running(ours.identity)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "words",
    [
        [b"nonsense"],
        [wire.encode(wire.Ack(1))],
        [wire.encode(wire.Hello(wire.VERSION, 2**22 + 1))],
        [wire.encode(wire.Hello(wire.VERSION, os.getpid())), b"nonsense"],
    ],
    ids=["nonsense", "no hello", "a pid that does not run", "nonsense later"],
)
async def test_who_makes_no_sense_is_not_among_the_found(
    here: Lives, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, words: list[bytes]
) -> None:
    stranger = Stranger(worker.folder_of(here.folder) / "0.0.sock", *words)
    await nursery.start(stranger.run)
    assert await here.find() == []
    assert "a worker runs, but does not answer" in caplog.messages
    nursery.cancel_scope.cancel()
