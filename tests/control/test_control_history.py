import errno
import json
import os

import pytest
import trio

from proxy.control import history
from proxy.control.history import History
from proxy.control.trouble import Troubles


def entry(number: int, service: str = "web") -> dict[str, object]:
    return {"id": number, "service": service, "result": "swapped"}


def test_what_was_added_is_there_after_a_restart(tmp_path):
    first = History(tmp_path / "history.jsonl")
    first.load()
    for number in range(3):
        first.add(entry(number))
    second = History(tmp_path / "history.jsonl")
    second.load()
    assert second.of() == [entry(0), entry(1), entry(2)]
    assert second.last("web") == entry(2)
    assert second.last("other") is None


def test_a_line_cut_by_a_crash_costs_that_line_and_not_the_next_one(tmp_path, caplog):
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps(entry(1)) + '\n{"id": 2, "serv')
    damaged = History(path)
    damaged.load()
    assert "unreadable" in caplog.text
    damaged.add(entry(3))
    again = History(path)
    again.load()
    assert again.of() == [entry(1), entry(3)]


def test_bytes_that_are_no_text_do_not_stop_the_proxy(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_bytes(b"\xff\xfe\x00\n" + json.dumps(entry(1)).encode() + b"\n")
    damaged = History(path)
    damaged.load()
    assert damaged.of() == [entry(1)]


def test_a_folder_that_cannot_be_written_is_reported_and_history_kept_in_memory(tmp_path, caplog):
    kept = History(tmp_path / "missing" / "history.jsonl")
    kept.load()
    kept.add(entry(1))
    kept.add(entry(2))
    assert [record.message for record in caplog.records] == ["trouble"]
    assert kept.of() == [entry(1), entry(2)]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_what_could_not_be_written_is_written_in_order_once_that_is_possible(tmp_path, autojump_clock):
    folder, troubles = tmp_path / "state", Troubles()
    kept = History(folder / "history.jsonl", troubles)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        kept.add(entry(1))
        kept.add(entry(2))
        await trio.sleep(3600)
        assert troubles.active()["history"]
        folder.mkdir()
        await trio.sleep(61)
        assert lines(kept.path) == [entry(1), entry(2)]
        assert not troubles.active()["history"]
        kept.add(entry(3))
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()
    assert lines(kept.path) == [entry(1), entry(2), entry(3)]


def test_the_next_entry_takes_along_what_waits(tmp_path):
    kept = History(tmp_path / "state" / "history.jsonl")
    kept.add(entry(1))
    (tmp_path / "state").mkdir()
    kept.add(entry(2))
    assert lines(kept.path) == [entry(1), entry(2)]


@pytest.mark.parametrize("fails", ["write", "fsync"])
def test_an_entry_that_was_written_in_part_is_there_once_in_the_end(tmp_path, monkeypatch, fails):
    """A disk that is full takes the first half of a line; one that is broken says so only when it is synced."""
    kept = History(tmp_path / "history.jsonl")
    kept.add(entry(1))
    write = os.write

    def half(descriptor, data):
        if len(data) < 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[: len(data) // 2])

    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, half if fails == "write" else fail)
        kept.add(entry(2))
        assert lines(kept.path) == [entry(1)]
    kept.add(entry(3))
    assert lines(kept.path) == [entry(1), entry(2), entry(3)]


def test_a_file_that_cannot_even_be_cut_is_written_anew(tmp_path, monkeypatch):
    kept = History(tmp_path / "history.jsonl")
    kept.add(entry(1))

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        patch.setattr(os, "ftruncate", fail)
        kept.add(entry(2))
    kept.add(entry(3))
    assert lines(kept.path) == [entry(1), entry(2), entry(3)]


def refused(path):
    troubles = Troubles()
    kept = History(path, troubles)
    kept.load()
    assert kept.of() == []
    assert troubles.active()["history"]
    kept.add(entry(1))
    assert lines(path) == [entry(1)]
    return troubles.describe()[0]["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_a_history_of_another_user_is_not_ours(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps(entry(7)) + "\n")
    os.chown(path, 12345, 12345)
    assert "it belongs to another user (12345); it was set aside" in refused(path)


def test_what_is_no_file_neither_blocks_the_start_nor_what_comes_after(tmp_path):
    os.mkfifo(tmp_path / "history.jsonl")
    assert "it is not a regular file" in refused(tmp_path / "history.jsonl")


def test_of_a_file_that_has_grown_beyond_measure_only_the_end_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "_TAIL", 1000)
    path = tmp_path / "history.jsonl"
    with path.open("wb") as file:
        file.truncate(100 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + json.dumps(entry(1)).encode() + b"\n")
    kept = History(path)
    kept.load()
    assert kept.of() == [entry(1)]
    assert path.stat().st_size < 1000, "and it is small again"


def test_nested_beyond_reason_is_garbage(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text("[" * 1_000_000 + "\n" + json.dumps(entry(1)) + "\n")
    kept = History(path)
    kept.load()
    assert kept.of() == [entry(1)]


def test_the_file_stays_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "KEEP", 10)
    kept = History(tmp_path / "history.jsonl")
    kept.entries = history.deque(maxlen=10)
    for number in range(100):
        kept.add(entry(number))
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) <= 20
    assert kept.of(limit=3) == [entry(97), entry(98), entry(99)]


def test_one_services_history_is_told_apart(tmp_path):
    kept = History(tmp_path / "history.jsonl")
    kept.add(entry(1, "web"))
    kept.add(entry(2, "api"))
    assert kept.of("api") == [entry(2, "api")]
    assert kept.of(limit=0) == []
