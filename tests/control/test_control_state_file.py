import errno
import json
import logging
import os
import socket

import pytest
import trio

from proxy.control import files
from proxy.control.record import Record
from proxy.control.state import GenerationRecord, ProcessRecord, ServiceRecord, State, dump
from proxy.control.state_file import StateFile
from proxy.control.trouble import Troubles


def record() -> Record:
    return Record(
        service="web",
        version="v1",
        generation=3,
        replica=0,
        pid=12,
        start_time=99,
        address="127.0.0.1:20000",
        port=20000,
        started=1.5,
        supervisor="boot:1:2",
    )


async def test_everything_is_read_back(tmp_path):
    file = StateFile(tmp_path / "state.json")
    file.state.workers = [ProcessRecord(pid=1, start_time=2)]
    generation = GenerationRecord(id=3, version="v1", state="active", backends=[record()])
    file.state.services["web"] = ServiceRecord(
        next_generation=4, active="v1", configured="v1", known={"x": ["run", "me"]}, generations=[generation]
    )
    await file.flush()
    again = StateFile(tmp_path / "state.json")
    again.load()
    assert again.state == file.state
    assert os.stat(tmp_path / "state.json").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]", b'{"format": 99}', b'{"services": {"web": 1}}'])
def test_a_state_file_that_cannot_be_read_is_set_aside_and_never_trusted(tmp_path, troubles, content):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    file = StateFile(path, troubles)
    file.load()
    assert file.state.services == {}
    assert "set aside" in troubles.describe()[0]["message"]
    (kept,) = tmp_path.glob("state.json.unreadable-*")
    assert kept.read_bytes() == content
    assert not path.exists()


def test_a_missing_file_is_a_new_proxy(tmp_path, caplog):
    file = StateFile(tmp_path / "state.json")
    file.load()
    assert not caplog.text


@pytest.fixture
def troubles():
    return Troubles()


@pytest.fixture
def written(tmp_path):
    """A state file that is fine: nobody else can have written it, and it has a service."""
    path = tmp_path / "state.json"
    path.write_bytes(dump(State(services={"web": ServiceRecord(active="v1")})))
    path.chmod(0o600)
    return path


def refused(path, troubles):
    """Load it, and return why it was not trusted."""
    file = StateFile(path, troubles)
    file.load()
    assert file.state.services == {}
    assert troubles.active()["state"]
    return troubles.describe()[0]["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_a_state_file_of_another_user_is_not_trusted_since_its_commands_would_be_run(written, troubles):
    os.chown(written, 12345, 12345)
    assert "it belongs to another user (12345); it was set aside as" in refused(written, troubles)
    assert not written.exists()


@pytest.mark.parametrize("mode", [0o602, 0o620, 0o666])
def test_a_state_file_that_others_can_write_to_is_not_trusted(written, troubles, mode):
    written.chmod(mode)
    assert f"other users may write to it (mode {mode:04o})" in refused(written, troubles)


def test_a_state_file_that_is_a_link_is_not_followed(written, tmp_path, troubles):
    (tmp_path / "link.json").symlink_to(written)
    assert "it is a symbolic link" in refused(tmp_path / "link.json", troubles)
    assert written.exists()
    assert not os.path.lexists(tmp_path / "link.json")


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_socket])
def test_what_is_no_file_neither_blocks_the_start_nor_is_trusted(tmp_path, troubles, make):
    make(tmp_path / "state.json")
    assert "it is not a regular file" in refused(tmp_path / "state.json", troubles)


def test_a_file_of_a_hundred_gigabytes_is_not_read(written, troubles):
    os.truncate(written, 100 << 30)
    assert "larger than" in refused(written, troubles)


async def test_what_was_set_aside_is_shown_although_the_next_write_works(tmp_path, troubles):
    (tmp_path / "state.json").write_text("garbage")
    file = StateFile(tmp_path / "state.json", troubles)
    file.load()
    await file.flush()
    assert troubles.active()["state"]
    assert "set aside as state.json.unreadable-" in troubles.describe()[0]["message"]


def test_a_folder_that_others_can_write_to_is_warned_of(written, caplog):
    written.parent.chmod(0o777)
    file = StateFile(written)
    file.load()
    assert "not the proxy's alone" in caplog.text
    assert "web" in file.state.services, "the file itself is the proxy's"


async def test_a_folder_that_vanished_is_said_once_and_its_return_too(tmp_path, troubles, caplog):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "state"
    file = StateFile(folder / "state.json", troubles)
    await file.flush()
    await file.flush()
    assert [record.message for record in caplog.records] == ["trouble"]
    (trouble,) = troubles.describe()
    assert trouble["kind"] == "state"
    assert trouble["message"].endswith("No such file or directory")
    folder.mkdir()
    await file.flush()
    assert troubles.describe() == []
    assert [record.message for record in caplog.records] == ["trouble", "trouble is over"]


@pytest.fixture
def no_threads(monkeypatch):
    """What runs in a thread takes no time: the clock of the tests would go on meanwhile."""

    async def run_sync(function, *arguments):
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


@pytest.mark.usefixtures("no_threads")
async def test_a_disk_that_has_room_again_is_noticed_though_nothing_changes(tmp_path, troubles, autojump_clock):
    folder = tmp_path / "state"
    file = StateFile(folder / "state.json", troubles)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.run)
        file.state.services["web"] = ServiceRecord(active="v2")
        file.changed()
        await trio.sleep(3600)
        assert troubles.active()["state"]
        folder.mkdir()
        await trio.sleep(61)
        assert not troubles.active()["state"]
        nursery.cancel_scope.cancel()
    assert b'"v2"' in file.path.read_bytes()


@pytest.mark.usefixtures("no_threads")
async def test_many_changes_on_a_full_disk_do_not_make_it_wait_for_longer(tmp_path, troubles, autojump_clock):
    folder = tmp_path / "state"
    file = StateFile(folder / "state.json", troubles)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.run)
        for _ in range(100):
            file.changed()
            await trio.sleep(0.01)
        folder.mkdir()
        await trio.sleep(5)
        assert not troubles.active()["state"]
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("no_threads")
async def test_a_write_that_failed_elsewhere_is_tried_again_too(tmp_path, troubles, autojump_clock):
    folder = tmp_path / "state"
    file = StateFile(folder / "state.json", troubles)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.run)
        await file.flush()
        folder.mkdir()
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert file.path.exists()


@pytest.mark.usefixtures("no_threads")
async def test_a_disk_that_is_full_for_long_is_not_tried_all_the_time(tmp_path, monkeypatch, autojump_clock):
    tries = []

    def fail(*_):
        tries.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "replace", fail)
    file = StateFile(tmp_path / "state.json")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.run)
        file.changed()
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()
    assert 60 <= len(tries) <= 70


async def test_a_sync_that_fails_leaves_the_old_content(written, troubles, monkeypatch):
    file = StateFile(written, troubles)
    file.load()
    before = written.read_bytes()

    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        file.state.services["web"].active = "v2"
        await file.flush()
    assert written.read_bytes() == before
    assert troubles.describe()[0]["message"].endswith("Input/output error")
    assert [entry.name for entry in written.parent.iterdir()] == ["state.json"]
    await file.flush()
    assert not troubles.active()["state"]


async def test_writers_at_the_same_time_leave_a_whole_file(tmp_path):
    file = StateFile(tmp_path / "state.json")
    async with trio.open_nursery() as nursery:
        for number in range(20):
            file.state.services[f"s{number}"] = ServiceRecord()
            nursery.start_soon(file.flush)
    again = StateFile(tmp_path / "state.json")
    again.load()
    assert len(again.state.services) == 20
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


async def test_changes_are_written_without_being_asked_for(tmp_path):
    file = StateFile(tmp_path / "state.json")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.run)
        file.state.services["web"] = ServiceRecord(active="v2")
        file.changed()
        while not file.path.exists():
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    again = StateFile(file.path)
    again.load()
    assert again.state.services["web"].active == "v2"


@pytest.mark.parametrize(("key", "value"), [("address", "garbage"), ("address", ""), ("pid", -1), ("pid", 1)])
async def test_a_damaged_backend_in_the_state_file_does_not_keep_the_proxy_from_starting(
    tmp_path, troubles, key, value
):
    """And above all, no signal goes to a pid such as -1, which is every process there is."""
    file = StateFile(tmp_path / "state.json")
    generation = GenerationRecord(id=3, version="v1", state="active", backends=[record()])
    file.state.services["web"] = ServiceRecord(generations=[generation])
    await file.flush()
    content = json.loads(file.path.read_bytes())
    content["services"]["web"]["generations"][0]["backends"][0][key] = value
    file.path.write_text(json.dumps(content))
    again = StateFile(file.path, troubles)
    again.load()
    assert again.state.services == {}
    assert "set aside" in troubles.describe()[0]["message"]
    assert list(tmp_path.glob("state.json.unreadable-*"))


@pytest.mark.usefixtures("no_threads")
async def test_changes_after_a_flush_by_somebody_else_are_written_too(tmp_path, autojump_clock):
    file = StateFile(tmp_path / "state.json")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.run)
        await trio.sleep(1)
        await file.flush()
        file.state.services["web"] = ServiceRecord(active="v2")
        file.changed()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert b'"v2"' in file.path.read_bytes()
