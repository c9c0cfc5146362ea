"""Trouble is said once, shown while it lasts, and its end is said too."""

from __future__ import annotations

import logging
import time

import pytest

from proxy.control.events import Bus
from proxy.control.trouble import KINDS, Troubles


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_what_goes_wrong_again_and_again_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles()
    for _ in range(3):
        troubles.set("state", "full", "make room")
        troubles.set("state", "read-only")
    said = [(record.levelname, record.message, record.__dict__["facts"]["reason"]) for record in caplog.records]
    assert said == [("ERROR", "trouble", "full"), ("ERROR", "trouble", "read-only")]
    (trouble,) = troubles.describe()
    assert (trouble["kind"], trouble["message"], trouble["hint"]) == ("state", "read-only", "")
    assert abs(trouble["since"] - time.time()) < 5


def test_its_end_is_said_once_and_when_it_comes_back_that_is_said_again(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles()
    troubles.clear("state")
    troubles.set("state", "full")
    troubles.clear("state")
    troubles.clear("state")
    troubles.set("state", "full")
    assert [record.message for record in caplog.records] == ["trouble", "trouble is over", "trouble"]
    assert caplog.records[1].levelname == "INFO"


def test_the_metric_has_every_kind() -> None:
    troubles = Troubles()
    assert troubles.active() == dict.fromkeys(KINDS, False)
    troubles.set("clock", "set back")
    assert troubles.active() == {**dict.fromkeys(KINDS, False), "clock": True}


def test_two_troubles_of_a_kind_end_one_by_one() -> None:
    troubles = Troubles()
    troubles.set("output", "one", about="a")
    troubles.set("output", "two", about="b")
    assert troubles.about("output") == ["a", "b"]
    assert (troubles.message("output", "b"), troubles.message("output")) == ("two", "")
    troubles.clear("output", "a")
    assert [trouble["message"] for trouble in troubles.describe()] == ["two"]
    assert troubles.active()["output"]


def test_what_has_happened_is_shown_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    troubles = Troubles()
    troubles.set("clock", "set back", lasts=600)
    troubles.set("state", "full")
    later = time.monotonic() + 601
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert [trouble["kind"] for trouble in troubles.describe()] == ["state"]
    assert not troubles.active()["clock"]


def test_whoever_watches_is_told() -> None:
    bus = Bus()
    troubles = Troubles(bus)
    with bus.subscribe() as events:
        troubles.set("history", "full", "make room")
        troubles.set("history", "full", "make room")
        troubles.clear("history")
        begin, end = events.receive_nowait(), events.receive_nowait()
    assert begin.items() >= {"type": "trouble", "trouble": "history", "state": "begin", "message": "full"}.items()
    assert end.items() >= {"type": "trouble", "trouble": "history", "state": "end"}.items()
