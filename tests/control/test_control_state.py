import json
import os

import pytest
import trio

from proxy.control.record import Record
from proxy.control.state import GenerationRecord, ProcessRecord, ServiceRecord, StateFile


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
def test_a_state_file_that_cannot_be_read_is_set_aside_and_never_trusted(tmp_path, caplog, content):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    file = StateFile(path)
    file.load()
    assert file.state.services == {}
    assert "set aside" in caplog.text
    (kept,) = tmp_path.glob("state.json.unreadable-*")
    assert kept.read_bytes() == content
    assert not path.exists()


def test_a_missing_file_is_a_new_proxy(tmp_path, caplog):
    file = StateFile(tmp_path / "state.json")
    file.load()
    assert not caplog.text


async def test_a_folder_that_vanished_is_said_once_and_its_return_too(tmp_path, caplog):
    folder = tmp_path / "state"
    file = StateFile(folder / "state.json")
    await file.flush()
    await file.flush()
    assert caplog.text.count("cannot be used") == 1
    assert file.trouble
    folder.mkdir()
    await file.flush()
    assert not file.trouble


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
async def test_a_damaged_backend_in_the_state_file_does_not_keep_the_proxy_from_starting(tmp_path, caplog, key, value):
    """And above all, no signal goes to a pid such as -1, which is every process there is."""
    file = StateFile(tmp_path / "state.json")
    generation = GenerationRecord(id=3, version="v1", state="active", backends=[record()])
    file.state.services["web"] = ServiceRecord(generations=[generation])
    await file.flush()
    content = json.loads(file.path.read_bytes())
    content["services"]["web"]["generations"][0]["backends"][0][key] = value
    file.path.write_text(json.dumps(content))
    again = StateFile(file.path)
    again.load()
    assert again.state.services == {}
    assert "set aside" in caplog.text
    assert list(tmp_path.glob("state.json.unreadable-*"))
