"""`proxyctl` itself: verbs, help, errors and exit codes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from proxy.cli import VERBS, group

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import FakeProxy, Result

PROXYCTL = [sys.executable, "-P", "-m", "proxy.cli"]
OURS = [name for name in VERBS if name not in {"check", "demo"}]


def verb(name: str) -> click.Command:
    if importlib.util.find_spec(f"proxy.cli.{name}") is None:
        pytest.skip(f"{name} is not in this release")
    command = group.get_command(click.Context(group), name)
    assert command is not None
    return command


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_with_examples(name: str, proxyctl: Callable[..., Result]) -> None:
    verb(name)
    result = proxyctl(name, "--help")
    assert result.code == 0
    assert "Examples:" in result.out
    assert f"\n    proxyctl {name}" in result.out or f"\n  proxyctl {name}" in result.out


@pytest.mark.parametrize("name", OURS)
def test_the_overview_says_of_a_verb_what_the_verb_says(name: str) -> None:
    assert verb(name).get_short_help_str(200).rstrip(".") == VERBS[name].rstrip(".")


def test_the_overview_lists_every_verb_without_importing_one(proxyctl: Callable[..., Result]) -> None:
    code = "import sys, proxy.cli; proxy.cli.perform(['--help']); print([m for m in sys.modules if 'proxy.' in m])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name, text in VERBS.items():
        assert name in shown
        assert text in shown
    assert "proxy.cli.status" not in shown
    assert proxyctl("help").out == proxyctl("--help").out


def test_help_of_a_verb_is_the_verbs_own(proxyctl: Callable[..., Result]) -> None:
    assert proxyctl("help", "swap").out == proxyctl("swap", "-h").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["swp", "v2"], 'there is no verb "swp"; did you mean "swap"?'),
        (["help", "swp"], 'there is no verb "swp"; did you mean "swap"?'),
        (["swap"], "Missing argument 'VERSION'"),
        (["status", "--jsn"], "--json"),
        (["history", "-n", "0"], "'-n'"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_how_it_is_used(
    arguments: list[str], says: str, proxyctl: Callable[..., Result]
) -> None:
    result = proxyctl(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("proxyctl: ")
    assert says in result.err
    assert "--help` shows how it is used" in result.err


def test_no_verb_shows_the_overview_and_is_wrong_usage(proxyctl: Callable[..., Result]) -> None:
    result = proxyctl()
    assert (result.code, result.out) == (2, "")
    assert "Verbs:" in result.err


def test_the_version_is_told(proxyctl: Callable[..., Result]) -> None:
    assert proxyctl("--version").out.startswith("proxyctl 0.")


@pytest.mark.parametrize("arguments", [["--socket", "{}", "status"], ["status", "--socket", "{}"]])
def test_the_socket_may_be_named_before_and_after_the_verb(
    arguments: list[str], proxy: FakeProxy, monkeypatch: pytest.MonkeyPatch, proxyctl: Callable[..., Result]
) -> None:
    monkeypatch.setenv("PROXYCTL_SOCKET", "/nonexistent")
    assert proxyctl(*(argument.format(proxy.socket) for argument in arguments)).code == 0


def test_errors_are_one_line_and_an_indented_hint(proxy: FakeProxy, proxyctl: Callable[..., Result]) -> None:
    result = proxyctl("swap", "missing")
    assert result.code == 2
    assert result.err == "proxyctl: there is no version missing\n  there is v1\n"


def test_a_reader_that_has_seen_enough_is_no_error(proxy: FakeProxy) -> None:
    proxy.control.entries = [{**ENTRY, "error": "x" * 200, "result": "failed"} for _ in range(1000)]
    shown = subprocess.run(
        ["/bin/sh", "-c", f"({' '.join(PROXYCTL)} history -n 1000; echo $? >&2) | head -n 1"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(PYTHONUNBUFFERED=""),  # Python leaves out the rest of a cut write then, and calls it done
    )
    assert shown.stdout.startswith("WHEN")
    assert shown.stderr == "141\n"


def test_a_name_that_the_locale_cannot_show_is_no_error(proxy: FakeProxy) -> None:
    proxy.control.state["services"]["w→b"] = proxy.control.state["services"].pop("web")
    shown = subprocess.run(
        [*PROXYCTL, "status"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(PYTHONIOENCODING="latin-1"),
    )
    assert "w?b serving" in shown.stdout


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}


ENTRY = {
    "service": "web",
    "kind": "swap",
    "from": "v1",
    "to": "v2",
    "result": "swapped",
    "phases": dict.fromkeys(("start", "health", "switch", "drain", "stop"), 0.1),
    "drained": 1,
    "forced": 0,
    "error": None,
    "started": 1.0,
    "finished": 2.0,
}
