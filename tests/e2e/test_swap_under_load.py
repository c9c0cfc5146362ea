"""Swaps while clients connect all the time: what the whole project is for."""

from __future__ import annotations

import time
from itertools import accumulate
from typing import TYPE_CHECKING

from tests.e2e import configs
from tests.e2e.harness import Answer, Events, Load, Proxy, free_port, is_alive

if TYPE_CHECKING:
    from pathlib import Path

SWAPS = 50
CLIENTS = 32


def test_fifty_swaps_of_nginx_under_load_lose_no_request_and_never_go_back(tmp_path: Path) -> None:
    port = free_port()
    versions = {name: configs.nginx(tmp_path, name) for name in ("v1", "v2")}
    config = "workers = 2\n" + configs.service(port, **versions)
    pids = set()
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events, Load(port, CLIENTS, rest=0.03) as load:
        load.wait_for(CLIENTS)
        for number in range(SWAPS):
            pids |= set(proxy.pids())
            proxy.operate("swap", version=("v2", "v1")[number % 2])
            load.wait_for(CLIENTS)
        final = set(proxy.pids())

    assert not load.errors
    assert {answer.generation for answer in load.answers} == set(range(1, SWAPS + 2))
    assert all(answer.version == ("v2", "v1")[answer.generation % 2] for answer in load.answers)
    _assert_switched_in_one_step(load.answers, events)
    assert not [pid for pid in pids - final if is_alive(pid)]


def _assert_switched_in_one_step(answers: list[Answer], events: Events) -> None:
    wall = time.time() - time.monotonic()
    switch = [(at, event) for at, event in events.seen if event.get("phase") == "switch"]
    begun = [event["time"] - wall for _, event in switch if event["state"] == "begin"]
    reported = [at for at, event in switch if event["state"] == "end"]
    assert len(begun) == len(reported) == SWAPS
    for answer in answers:
        replaced = reported[answer.generation - 1] if answer.generation <= SWAPS else float("inf")
        assert answer.began <= replaced, f"{answer} came {answer.began - replaced:.6f} s after the switch away from it"
        switched = begun[answer.generation - 2] if answer.generation > 1 else 0.0
        assert answer.ended >= switched - 0.002, (
            f"{answer} came {switched - answer.ended:.6f} s before the switch to it"
        )
    _assert_never_back(answers)


def _assert_never_back(answers: list[Answer]) -> None:
    """Once anybody has had an answer of a generation, no connection that is begun later gets an earlier one."""
    by_end = sorted(answers, key=lambda answer: answer.ended)
    newest = dict(
        zip((answer.ended for answer in by_end), accumulate((a.generation for a in by_end), max), strict=True)
    )
    by_begin = iter(sorted(answers, key=lambda answer: answer.began))
    answer = next(by_begin, None)
    seen = 0
    for ended, generation in newest.items():
        while answer and answer.began <= ended:
            assert answer.generation >= seen, f"{answer} after generation {seen} had been seen"
            answer = next(by_begin, None)
        seen = generation
