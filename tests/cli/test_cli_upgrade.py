"""`upgrade`: what the caller sees, gets on stdout, and gets as exit code, also as control becomes another program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from proxy.cli import follow
from proxy.cli.upgrade_progress import UpgradeProgress
from proxy.errors import UpgradeInProgressError
from tests.fakes import upgrade_result
from tests.screens import PROXYCTL, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.core.caller import Caller
    from tests.cli.conftest import FakeProxy, Result


def phase(name: str, seconds: float) -> list[dict[str, Any]]:
    return [{"phase": name, "state": "begin"}, {"phase": name, "state": "end", "seconds": seconds}]


CHECKED = [*phase("check", 0.9), {"phase": "exec", "state": "begin"}]
STORY = [
    *phase("check", 0.9),
    *phase("exec", 0.5),
    *phase("adopt", 0.05),
    {"phase": "workers", "state": "begin"},
    *upgrade_result()["workers"],
    {"phase": "workers", "state": "end", "seconds": 0.4},
]


def after_begin(proxy: FakeProxy, act: Callable[[], Any]) -> None:
    """Let something happen in a thread once the upgrade was accepted."""
    upgrade = proxy.control.upgrade

    async def accepted(by: Caller) -> Any:
        begun = await upgrade(by)
        threading.Thread(target=act).start()
        return begun

    proxy.control.upgrade = accepted  # type: ignore[method-assign]


def test_without_a_terminal_each_phase_is_one_line(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    proxy.control.story = STORY
    result = proxyctl("upgrade")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "upgrade of the proxy: 0.1.0"
    told = [line.split()[:2] for line in lines[1:5]]
    assert told == [["check", "900ms"], ["exec", "500ms"], ["adopt", "50ms"], ["workers", "400ms"]]
    carried = "240 connections carried (none without reads for longer than 15ms), 3 stay with the old worker to the end"
    assert lines[4].endswith(f"2 workers replaced: {carried}")
    assert lines[5].startswith("the proxy: 0.2.0 runs (before: 0.1.0); took ")
    assert lines[5].endswith(carried)
    assert len(lines) == 6


def test_json_is_one_object_alone_on_stdout(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    proxy.control.story = STORY
    result = proxyctl("upgrade", "--json")
    assert result.code == 0
    assert result.out.count("\n") == 1
    keys = ["from", "to", "result", "phases", "carried", "kept", "pause", "workers", "error"]
    assert list(json.loads(result.out)) == keys
    assert "exec" in result.err


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_code_that_fails_its_check_says_why_and_what_serves_on(
    proxy: FakeProxy, options: tuple[str, ...], proxyctl: Callable[..., Result]
) -> None:
    proxy.control.story = phase("check", 0.3)
    failed = {"result": "failed", "to": "0.1.0", "phases": {"check": 0.3}, "error": "the new code does not start"}
    lines = ["Traceback", "ImportError: no module named proxy.x"]
    proxy.control.ending = {**failed, "hint": "nothing was changed", "output": lines, "workers": []}
    result = proxyctl("upgrade", *options)
    assert result.code == 1
    assert "upgrade of the proxy from 0.1.0 failed: the new code does not start (0.1.0 serves on)" in result.err
    said = "".join(f"\n    {line}" for line in lines)
    assert f"\n  nothing was changed\n  the new code's last lines:{said}\n" in result.err
    if options:
        assert json.loads(result.out)["result"] == "failed"


def test_a_worker_that_could_not_be_replaced_is_a_failure_of_the_new_code_that_runs(
    proxy: FakeProxy, proxyctl: Callable[..., Result]
) -> None:
    proxy.control.story = STORY
    proxy.control.ending = {"result": "failed", "error": "control runs the new code, but not every worker does"}
    result = proxyctl("upgrade")
    assert result.code == 1
    assert result.err == (
        "proxyctl: upgrade of the proxy from 0.1.0 failed: control runs the new code, but not every worker does\n"
    )


def test_what_is_refused_exits_with_1_and_has_nothing_on_stdout(
    proxy: FakeProxy, proxyctl: Callable[..., Result]
) -> None:
    proxy.control.problem = UpgradeInProgressError("an upgrade is under way", hint="wait for it")
    result = proxyctl("upgrade", "--json")
    assert (result.code, result.out, result.err) == (1, "", "proxyctl: an upgrade is under way\n  wait for it\n")


def test_no_wait_returns_when_it_has_begun(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    proxy.control.ending = None
    result = proxyctl("upgrade", "--no-wait")
    assert (result.code, result.err) == (0, "")
    assert result.out == "upgrade of the proxy: 0.1.0 has begun; `proxyctl status` shows it\n"
    assert json.loads(proxyctl("upgrade", "--no-wait", "--json").out) == proxy.control.upgrading


def test_it_is_followed_on_when_control_has_become_the_new_code(
    proxy: FakeProxy, proxyctl: Callable[..., Result]
) -> None:
    """The stream breaks at the exec; the rest of the events come on another."""
    proxy.control.story, proxy.control.ending = CHECKED, None

    def replace() -> None:
        proxy.end()
        assert not proxy.control.readers
        proxy.start()
        while not proxy.control.readers:
            time.sleep(0.01)
        proxy.do(finish)

    def finish() -> None:
        for event in STORY[3:]:
            proxy.control.publish("upgrade", id=1, **event)
        proxy.control.end_upgrade()

    after_begin(proxy, replace)
    result = proxyctl("upgrade")
    assert (result.code, result.err) == (0, "")
    assert [line.split()[0] for line in result.out.splitlines()] == [
        "upgrade", "check", "exec", "adopt", "workers", "the",
    ]  # fmt: skip


def test_an_end_that_nobody_saw_is_in_the_status(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    proxy.control.story, proxy.control.ending = CHECKED, None

    def replace() -> None:
        proxy.end()
        proxy.control.end_upgrade()
        proxy.start()

    after_begin(proxy, replace)
    result = proxyctl("upgrade")
    assert (result.code, result.err) == (0, "")
    assert "adopt       50ms" in result.out
    assert "the proxy: 0.2.0 runs" in result.out


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_new_code_that_never_answers_is_given_up_with_what_is_known_and_what_to_do(
    proxy: FakeProxy, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], proxyctl: Callable[..., Result]
) -> None:
    monkeypatch.setattr(follow, "RETURN", 1.5)
    proxy.control.story, proxy.control.ending = CHECKED, None
    after_begin(proxy, proxy.end)
    result = proxyctl("upgrade", *options)
    assert result.code == 1
    assert (
        "waiting up to 1.5s for the control process to come back; connections go on meanwhile"
        in result.out + result.err
    )
    assert "upgrade of the proxy from 0.1.0 failed: no answer for 2s (done: check 900ms; under way: exec)" in result.err
    assert "serves on" not in result.err.partition("\n  ")[0], "nobody can know which control process comes"
    assert "workers and backends serve on, and no connection is lost" in result.err
    assert f"process {os.getpid()} is there, and hangs: kill -9" in result.err  # the fake one is this process
    assert "`proxyctl run`" in result.err
    if options:
        assert json.loads(result.out)["result"] == "failed"


def test_a_control_process_that_was_started_anew_and_knows_nothing_ends_it(
    proxy: FakeProxy, proxyctl: Callable[..., Result]
) -> None:
    proxy.control.story, proxy.control.ending = CHECKED, None

    def replace() -> None:
        proxy.end()
        proxy.control.state["proxy"] |= {"upgrade": None, "version": "0.2.0"}
        proxy.start()

    after_begin(proxy, replace)
    result = proxyctl("upgrade")
    assert result.code == 1
    assert "the proxy was started anew meanwhile, and knows nothing of it (done: check 900ms" in result.err
    assert "0.2.0 runs now" in result.err


def test_ctrl_c_detaches_and_the_upgrade_goes_on(proxy: FakeProxy) -> None:
    proxy.control.story, proxy.control.ending = CHECKED, None
    upgrade = subprocess.Popen([*PROXYCTL, "upgrade"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert upgrade.stdout
    assert upgrade.stdout.readline() == "upgrade of the proxy: 0.1.0\n"
    upgrade.send_signal(signal.SIGINT)
    _, told = upgrade.communicate(timeout=10)
    assert upgrade.returncode == 130
    assert told == "proxyctl: detached; the upgrade goes on\n  `proxyctl status` shows how it ended\n"
    proxy.do(proxy.control.end_upgrade)  # nobody has ended it


def test_on_a_terminal_the_picture_moves(proxy: FakeProxy) -> None:
    proxy.control.story, proxy.control.ending = STORY[:-1], None
    with Terminal("upgrade", columns=160) as terminal:
        terminal.shows("✓ adopt", "it took over workers")
        proxy.do(proxy.control.end_upgrade)
        assert terminal.end() == 0
        assert terminal.lines[0] == "upgrade of the proxy: 0.1.0 -> 0.2.0"
        assert [line.split()[1] for line in terminal.lines[1:5]] == ["check", "exec", "adopt", "workers"]
        assert terminal.lines[5].startswith("the proxy: 0.2.0 runs")
        assert terminal.screen.overlong == 0


def test_events_of_something_else_are_not_this_upgrades() -> None:
    progress = UpgradeProgress({"id": 1, "from": "0.1.0", "started": 1.0})
    other = {"type": "upgrade", "id": 2, "phase": "check", "state": "begin", "time": 1.0}
    assert not progress.take(other)
    assert not progress.take({"type": "phase", "operation": 1, "phase": "start", "state": "begin", "time": 1.0})
    assert progress.take({**other, "id": 1})
    assert list(progress.phases) == ["check"]


def test_status_shows_one_that_is_under_way_and_the_last_one_if_it_failed(
    proxy: FakeProxy, proxyctl: Callable[..., Result]
) -> None:
    proxy.control.ending = None
    assert proxyctl("upgrade", "--no-wait").code == 0
    under_way = "\nupgrade from 0.1.0 in phase check, for 0s\n  > check  · exec  · adopt  · workers\n"
    assert under_way in proxyctl("status").out
    proxy.do(lambda: proxy.control.end_upgrade(result="failed", error="no such module", finished=time.time()))
    assert "\nthe upgrade of 0s ago failed: no such module\n" in proxyctl("status").out
    proxy.do(proxy.control.end_upgrade)
    assert "upgrade" not in proxyctl("status").out
