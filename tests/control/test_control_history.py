import json

from proxy.control import history
from proxy.control.history import History


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
    assert "cannot be written" in caplog.text
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
