"""`GET …/logs`: the last lines at once, and with `follow` each new one as it is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
import pytest
import trio

from proxy.api import output

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ask import Api, Exchange
    from tests.fakes import FakeControl

LOGS = "/v1/services/web/versions/v1/logs"


@pytest.fixture
def folder(control: FakeControl, tmp_path: Path) -> Path:
    control.folder = tmp_path / "output"
    return control.folder


def append(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(text)


async def until(exchange: Exchange, wanted: str) -> str:
    text = ""
    with trio.fail_after(5):
        while wanted not in text:
            text += (await exchange.piece()).decode()
    return text


async def test_the_last_lines_of_a_version(api: Api, folder: Path) -> None:
    append(folder / "1.0.log", "one\ntwo\nthree\n")
    answer = await api.get(f"{LOGS}?lines=2")
    assert (answer.status, answer.body) == (200, b"two\nthree\n")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_a_version_that_has_printed_nothing(api: Api, folder: Path) -> None:
    answer = await api.get(LOGS)
    assert (answer.status, answer.body) == (200, b"")
    assert (await api.get(LOGS.replace("web", "wbe"))).status == 404


async def test_a_version_may_be_named_like_a_branch(api: Api, folder: Path) -> None:
    append(folder / "1.0.log", "one\n")
    assert (await api.get("/v1/services/web/versions/feature/x/logs")).body == b"one\n"
    assert (await api.get("/v1/services/web/versions/feature%2Fx/logs")).body == b"one\n"


async def test_follow_shows_lines_as_they_are_printed(
    api: Api, folder: Path, shutdown: trio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_PACE", 0.001)
    append(folder / "1.0.log", "old\n")
    async with api.open(f"{LOGS}?follow=true&lines=1") as (_, exchange):
        assert await until(exchange, "\n") == "old\n"
        append(folder / "1.0.log", "new\n")
        assert await until(exchange, "\n") == "new\n"
        append(folder / "2.0.log", "another\n")
        assert await until(exchange, "\n") == "2.0 another\n"
        shutdown.set()
        with trio.fail_after(5):
            assert await exchange.piece() == b""


async def test_follow_waits_for_a_version_that_has_not_started(
    api: Api, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_POLL", 0.001)
    monkeypatch.setattr(output, "_PACE", 0.001)
    async with api.open(f"{LOGS}?follow=1") as (answer, exchange):
        assert answer.status == 200
        append(folder / "1.0.log", "first\n")
        assert await until(exchange, "\n") == "first\n"


async def test_much_output_arrives_whole(api: Api, folder: Path) -> None:
    text = "".join(f"{number} {'x' * 100}\n" for number in range(20_000))
    append(folder / "1.0.log", text)
    assert (await api.get(f"{LOGS}?lines=100000")).body.decode() == text


async def test_a_bug_halfway_cuts_the_answer_instead_of_ending_it_as_if_it_were_whole(
    api: Api, control: FakeControl, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: str) -> list[Path]:
        raise ZeroDivisionError("a bug")

    control.output_files = broken  # type: ignore[method-assign]
    async with api.open(LOGS) as (answer, exchange):
        assert answer.status == 200
        with pytest.raises(h11.RemoteProtocolError):
            await exchange.rest()
    assert [record.message for record in caplog.records] == ["request failed"]
    assert (await api.get("/livez")).status == 200
