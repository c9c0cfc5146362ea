"""The demo's verdict: good only where every promise was kept."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from proxy.cli.demo.chat import Chat
from proxy.cli.demo.clients import Load
from proxy.cli.demo.connection import Answer
from proxy.cli.demo.download import Download
from proxy.cli.demo.figures import Figures, read
from proxy.cli.demo.orders import Balance
from proxy.cli.demo.summary import Summary, Swap

GOOD = "No request failed, and no client had to connect again."
PHASES = {"start": 0.1, "health": 0.2, "switch": 0.002, "drain": 0.03, "stop": 0.01}


def swapped(**changes: Any) -> dict[str, Any]:
    result = {"from": "v1", "to": "v2", "result": "swapped", "phases": PHASES, "forced": 0, "error": None}
    return {**result, **changes}


def answer(version: str, began: float, seconds: float) -> Answer:
    return Answer(version, began, seconds, {})


@pytest.fixture
async def good() -> Summary:
    """Asked at 1 and switched at 2: v1 answered what began before, v2 what began after. Back at 4, amid long ones."""
    load = Load(port=1, readers=1, buyers=1, still_open=2, on_both=2)
    load.answers += [answer("v1", 0.5, 0.01), answer("v1", 1.9, 0.3), answer("v2", 2.1, 0.02), answer("v1", 4.1, 0.02)]
    chat, download = Chat(port=1), Download(port=1)
    chat.failure = download.failure = ""
    chat.version = download.version = "v2"
    chat.replies = [2.5, 3.5, 4.5, 5.5]
    download.began, download.ended, download.size = 2.5, 6.5, 4_000_000
    back = swapped(**{"from": "v2", "to": "v1", "phases": {**PHASES, "drain": 4.5}})
    swaps = [Swap(asked=1, switched=2, result=swapped()), Swap(asked=3, switched=4, result=back, is_long=True)]
    return Summary(load, chat, download, Balance(sent=2, lost=0, repeated=0), Figures(migrated=4, retries=1), swaps)


async def test_a_demo_in_which_all_went_well_says_so_with_the_figures(good: Summary) -> None:
    text = "\n".join(good.lines())
    assert good.faults == []
    assert GOOD in text
    assert "4 sent, 0 failed; the slowest took 300ms" in text
    assert "v1 3, v2 1" in text
    assert "2 kept by their clients: 0 reopened, 2 still open at the end, 2 spoke with both versions" in text
    assert "2 sent, each processed exactly once" in text
    assert "4 messages to v2, 2 of them after the switch; closed in order" in text
    assert "4.0 MB from v2 in 4.00s, 2.50s of it after the switch; every byte as sent" in text
    assert "switch 2ms, drain 30ms; 0 connections cut, 0 late answers from v1" in text
    assert "drain 4.50s (websocket, download); 0 connections cut" in text
    assert "proxy_http_migrated_connections_total 4, proxy_http_retries_total 1" in text


async def test_a_failed_request_fails_the_demo_and_says_how_often_and_why(good: Summary) -> None:
    good.load.failures["Connection refused"] += 2
    assert good.faults == ["2 x Connection refused"]
    assert GOOD not in "\n".join(good.lines())


async def test_a_connection_that_did_not_last_fails_the_demo(good: Summary) -> None:
    good.load.reopened, good.load.still_open = 1, 1
    assert good.faults == ["clients had to connect again, 1 time", "1 of 2 connections lasted to the end"]


@pytest.mark.parametrize(
    ("orders", "fault"),
    [
        (Balance(sent=9, lost=1, repeated=0), "1 POST never processed"),
        (Balance(sent=9, lost=0, repeated=2), "2 POSTs processed more than once"),
    ],
)
async def test_a_post_that_was_not_processed_exactly_once_fails_the_demo(
    good: Summary, orders: Balance, fault: str
) -> None:
    good.orders = orders
    assert good.faults == [fault]
    assert f"{orders.once} processed exactly once" in "\n".join(good.lines())


async def test_an_answer_of_the_old_version_after_the_switch_fails_the_demo(good: Summary) -> None:
    good.load.answers.append(answer("v1", 2.001, 0.01))
    assert good.faults == ["1 answer of v1 after the switch to v2"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"result": "failed", "error": "it never listened"}, "the swap to v2 ended as failed: it never listened"),
        ({"forced": 1}, "1 connection cut in the swap to v2"),
        ({"phases": {**PHASES, "drain": 1.4}}, "the drain of v1 took 1.40s, the longest request 300ms"),
    ],
)
async def test_a_swap_that_went_wrong_fails_the_demo(good: Summary, change: dict[str, Any], fault: str) -> None:
    good.swaps[0].result |= change
    assert good.faults == [fault]


async def test_a_swap_that_never_switched_can_be_summed_up(good: Summary) -> None:
    failed = swapped(result="failed", error="it never listened", phases={"start": 0.1})
    good.swaps.append(Swap(asked=7, result=failed))
    assert "failed; 0 connections cut" in "\n".join(good.lines())
    assert good.faults == ["the swap to v2 ended as failed: it never listened"]


async def test_a_switch_that_was_not_seen_fails_the_demo_since_late_answers_could_not_be_told(good: Summary) -> None:
    good.swaps[0].switched = inf
    assert good.faults == ["the swap to v2 did not report the switch"]


@pytest.mark.parametrize(
    ("name", "changes", "fault"),
    [
        ("chat", {"failure": "closed"}, "the websocket failed: closed"),
        ("chat", {"version": "v1"}, "the websocket did not live on with v2 after the switch"),
        ("chat", {"replies": [2.5, 3.5]}, "the websocket did not live on with v2 after the switch"),
        ("download", {"failure": "cut off"}, "the download failed: cut off"),
        ("download", {"version": "v1"}, "the download did not go on from v2 after the switch"),
        ("download", {"ended": 3.9}, "the download did not go on from v2 after the switch"),
    ],
)
async def test_a_long_one_that_the_swap_disturbed_or_that_it_did_not_meet_fails_the_demo(
    good: Summary, name: str, changes: dict[str, Any], fault: str
) -> None:
    for attribute, value in changes.items():
        setattr(getattr(good, name), attribute, value)
    assert good.faults == [fault]
    assert GOOD not in "\n".join(good.lines())


def test_the_proxy_s_own_figures_are_found_among_its_metrics() -> None:
    page = (
        "# TYPE proxy_http_migrated_connections_total counter\n"
        'proxy_http_migrated_connections_total{service="demo"} 64.0\n'
        "# TYPE proxy_http_retries_total counter\n"
        'proxy_http_retries_total{service="demo"} 2.0\n'
        "# TYPE other gauge\nother 7.0\n"
    )
    assert read(page) == Figures(migrated=64, retries=2)
    assert read("") == Figures(migrated=0, retries=0)
