"""`swap`, `rollback`, `restart`: what the caller sees, gets on stdout, and gets as exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from proxy.cli import follow
from proxy.core.requests import SwapRequest
from tests.fakes import result_of
from tests.screens import PROXYCTL, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import FakeProxy, Result

CONTRACT = ["service", "from", "to", "result", "phases", "drained", "forced", "error"]


def phase(name: str, seconds: float) -> list[dict[str, Any]]:
    return [
        {"type": "phase", "phase": name, "state": "begin"},
        {"type": "phase", "phase": name, "state": "end", "seconds": seconds},
    ]


DRAIN = {
    "type": "drain",
    "generation": 1,
    "version": "v1",
    "initial": 40,
    "remaining": 12,
    "deadline": time.time() + 3000,
    "forced": 0,
}
STORY = [
    *phase("start", 0.01),
    *phase("health", 0.2),
    *phase("switch", 0.001),
    {"type": "phase", "phase": "drain", "state": "begin"},
    DRAIN,
    {"type": "phase", "phase": "drain", "state": "end", "seconds": 1.5},
    *phase("stop", 0.05),
]


@pytest.fixture
def story(proxy: FakeProxy) -> FakeProxy:
    proxy.control.story = STORY
    return proxy


def test_without_a_terminal_each_phase_is_one_line(story: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    result = proxyctl("swap", "v2")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "swap web: v1 -> v2"
    assert [line.split()[:2] for line in lines[1:6]] == [
        ["start", "10ms"],
        ["health", "200ms"],
        ["switch", "1ms"],
        ["drain", "1.50s"],
        ["stop", "50ms"],
    ]
    assert "40 connections, 0 closed at the deadline" in lines[4]
    assert lines[6].startswith("web: v2 serves; took ")
    assert lines[6].endswith("3 connections finished")
    assert len(lines) == 7


def test_for_how_long_both_generations_accepted_is_the_last_line(
    story: FakeProxy, proxyctl: Callable[..., Result]
) -> None:
    story.control.ending = {"overlap": 0.12}
    result = proxyctl("swap", "v2")
    lines = result.out.splitlines()
    assert lines[6].startswith("web: v2 serves; took ")
    assert lines[7:] == ["both generations accepted for at most 120ms"]
    assert list(json.loads(proxyctl("swap", "v3", "--json").out)) == [*CONTRACT, "overlap"]


def test_json_is_the_contracts_object_alone_on_stdout(story: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    result = proxyctl("swap", "v2", "--json")
    assert result.code == 0
    assert result.out.count("\n") == 1
    printed = json.loads(result.out)
    assert list(printed) == CONTRACT
    assert list(printed["phases"]) == ["start", "health", "switch", "drain", "stop"]
    assert all(isinstance(seconds, float) for seconds in printed["phases"].values())
    assert "health" in result.err


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        ({"result": "failed", "error": "exited with status 1"}, "exited with status 1 (v1 still serves)"),
        ({"result": "rolled_back", "error": "replica 0 died"}, "was rolled back: v1 serves again"),
        ({"result": "failed", "error": "port taken", "from": None}, "nothing was serving before"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_failed_swap_says_why_and_exits_with_1(
    proxy: FakeProxy, ending: dict[str, Any], says: str, options: tuple[str, ...], proxyctl: Callable[..., Result]
) -> None:
    proxy.control.ending = {**ending, "hint": "is $PORT used?", "output": ["Traceback", "KeyError: 'PORT'"]}
    result = proxyctl("swap", "v2", *options)
    assert result.code == 1
    assert "proxyctl: swap of web to v2 failed: " in result.err
    assert says in result.err
    assert "\n  is $PORT used?\n  the backend's last lines:\n    Traceback\n    KeyError: 'PORT'\n" in result.err
    assert "proxyctl logs v2 --service web" in result.err
    if options:
        assert json.loads(result.out)["result"] == ending["result"]


def test_everything_asked_for_reaches_the_proxy(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    options = ["--service", "web", "--deadline", "1m", "--command", "./app --port {port}"]
    assert proxyctl("swap", "v3", *options).code == 0
    assert proxyctl("rollback", "--deadline", "2s").code == 0
    assert proxyctl("restart").code == 0
    assert proxy.control.calls == [
        ("swap", "web", SwapRequest("v3", 60.0, ("./app", "--port", "{port}"))),
        ("rollback", "web", 2.0),
        ("restart", "web", None),
    ]


def test_no_wait_returns_when_it_has_begun(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    proxy.control.ending = None
    result = proxyctl("swap", "v2", "--no-wait")
    assert (result.code, result.out) == (0, "swap web: v1 -> v2 has begun; `proxyctl status --watch` shows it\n")
    assert json.loads(proxyctl("swap", "v2", "--no-wait", "--json").out)["kind"] == "swap"


def test_what_is_refused_has_its_exit_code_and_nothing_on_stdout(
    proxy: FakeProxy, proxyctl: Callable[..., Result]
) -> None:
    assert (proxyctl("swap", "missing", "--json").code, proxyctl("swap", "busy", "--json").code) == (2, 1)
    wrong = proxyctl("swap", "v2", "--deadline", "soon")
    assert wrong.code == 2
    assert '"soon" is not a duration' in wrong.err


def test_a_stream_that_breaks_is_taken_up_again(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    proxy.control.ending = None
    events = proxy.control.events
    opened = 0

    def watched() -> Any:
        nonlocal opened
        opened += 1
        if opened == 2:  # it ends while nobody listens: only the history knows
            proxy.control.end(result="swapped")
        return events()

    proxy.control.events = watched  # type: ignore[method-assign]
    swap = proxy.control.swap

    async def breaking(*arguments: Any) -> Any:
        operation = await swap(*arguments)
        proxy.control.drop_readers()
        return operation

    proxy.control.swap = breaking  # type: ignore[method-assign]
    result = proxyctl("swap", "v2")
    assert (result.code, opened) == (0, 2)
    assert "web: v2 serves" in result.out


def test_a_proxy_that_dies_is_reported_with_what_is_known(
    proxy: FakeProxy, monkeypatch: pytest.MonkeyPatch, proxyctl: Callable[..., Result]
) -> None:
    monkeypatch.setattr(follow, "RETURN", 1.5)
    proxy.control.story = [*phase("start", 0.01), {"type": "phase", "phase": "health", "state": "begin"}]
    proxy.control.ending = None
    swap = proxy.control.swap

    async def dying(*arguments: Any) -> Any:
        operation = await swap(*arguments)
        threading.Thread(target=proxy.end).start()
        return operation

    proxy.control.swap = dying  # type: ignore[method-assign]
    result = proxyctl("swap", "v2")
    assert result.code == 1
    assert result.out.endswith("waiting up to 1.5s for the control process to come back; connections go on meanwhile\n")
    assert "the proxy went away during the swap: done: start 10ms; under way: health" in result.err
    assert "no proxy answers on" in result.err


def test_a_swap_is_followed_on_by_the_control_process_that_comes_after(
    proxy: FakeProxy, proxyctl: Callable[..., Result]
) -> None:
    proxy.control.story = [*phase("start", 0.01), {"type": "phase", "phase": "drain", "state": "begin"}]
    proxy.control.ending = None
    swap = proxy.control.swap

    def replace() -> None:
        proxy.end()
        assert proxy.control.operation
        proxy.control.entries.append(result_of(**proxy.control.operation.describe() | {"result": "swapped"}))
        proxy.start()

    async def dying(*arguments: Any) -> Any:
        operation = await swap(*arguments)
        threading.Thread(target=replace).start()
        return operation

    proxy.control.swap = dying  # type: ignore[method-assign]
    result = proxyctl("swap", "v2")
    assert (result.code, result.err) == (0, "")
    assert "web: v2 serves" in result.out


def test_a_proxy_that_comes_back_without_its_memory_is_not_waited_for(
    proxy: FakeProxy, proxyctl: Callable[..., Result]
) -> None:
    proxy.control.story = phase("start", 0.01)
    proxy.control.ending = None
    swap = proxy.control.swap

    async def forgetting(*arguments: Any) -> Any:
        operation = await swap(*arguments)
        proxy.control.drop_readers()
        return operation

    proxy.control.swap = forgetting  # type: ignore[method-assign]
    result = proxyctl("swap", "v2")
    assert result.code == 1
    assert "was started anew during the swap, and does not know how it ended: done: start 10ms" in result.err
    assert "web: v1 serves" in result.err


def test_ctrl_c_detaches_and_the_swap_goes_on(proxy: FakeProxy) -> None:
    proxy.control.story = phase("start", 0.01)
    proxy.control.ending = None
    swap = subprocess.Popen([*PROXYCTL, "swap", "v2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert swap.stdout
    assert swap.stdout.readline() == "swap web: v1 -> v2\n"
    swap.send_signal(signal.SIGINT)
    _, told = swap.communicate(timeout=10)
    assert swap.returncode == 130
    assert told.startswith("proxyctl: detached; the swap goes on\n  `proxyctl status --watch`")
    proxy.do(proxy.control.end)  # nobody has ended it


def test_on_a_terminal_the_picture_moves(proxy: FakeProxy) -> None:
    proxy.control.story = STORY[:-3]
    proxy.control.ending = None
    with Terminal("swap", "v2", columns=100) as terminal:
        terminal.shows("swap web: v1 -> v2", "✓ switch", "12 of 40 left to drain, closed in")
        proxy.do(proxy.control.end)
        assert terminal.end() == 0
        *picture, told = terminal.lines
        assert [line.split()[1] for line in picture] == ["web:", "start", "health", "switch", "drain", "stop"]
        assert told.startswith("web: v2 serves")
        assert terminal.screen.overlong == 0
        assert terminal.is_left_clean()


def test_a_window_that_is_made_narrower_has_one_picture_and_not_two(proxy: FakeProxy) -> None:
    proxy.control.story = STORY[:-3]
    proxy.control.ending = None
    with Terminal("swap", "v2", columns=100) as terminal:
        terminal.shows("12 of 40 left to drain, closed in")
        terminal.resize(40, 12)
        terminal.shows("12 of 40 left, closed in ")
        terminal.resize(80, 12)
        terminal.shows("12 of 40 left to drain, closed in")
        assert [line.split()[1] for line in terminal.lines] == ["web:", "start", "health", "switch", "drain", "stop"]
        proxy.do(proxy.control.end)
        assert terminal.end() == 0
        assert terminal.lines[-1].startswith("web: v2 serves")


def test_ctrl_c_on_a_terminal_leaves_the_picture_and_says_that_the_swap_goes_on(proxy: FakeProxy) -> None:
    proxy.control.story = STORY[:-3]
    proxy.control.ending = None
    with Terminal("swap", "v2") as terminal:
        terminal.shows("12 of 40 left")
        terminal.interrupt()
        assert terminal.end() == 130
        assert [line.split()[0] for line in terminal.lines[4:7]] == [">", "·", "proxyctl:"]
        assert "detached; the swap goes on" in terminal.lines[6]
        assert terminal.is_left_clean()
    proxy.do(proxy.control.end)


def test_what_a_backend_printed_is_shown_and_not_obeyed(proxy: FakeProxy) -> None:
    output = ["\x1b[2J\x1b[31mred\x07", "日本語 🚀 \x9b1m", "a\tb"]
    proxy.control.ending = {"result": "failed", "error": "it said \x1b]0;title\x07", "hint": "", "output": output}
    with Terminal("swap", "v2", columns=60) as terminal:
        assert terminal.end() == 1
        for text in (r"it said \x1b]0;title\x07", r"    \x1b[2J\x1b[31mred\x07", r"    日本語 🚀 \x9b1m", "    a   b"):
            assert text in "\n".join(terminal.lines)
        assert b"\x07" not in terminal.raw
        assert terminal.lines[0] == "swap web: v1 -> v2"
