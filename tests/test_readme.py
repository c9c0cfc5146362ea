"""The README is the first thing that is tried: what it says must be so."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from proxy import config
from proxy.cli import VERBS
from tests.catalog import named_in, series_names
from tests.tools import need

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return README.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_it_begins_with_one_command_that_installs_and_shows_it_and_one_that_tests_it() -> None:
    install, tests = re.findall(r"^```sh\n(.*?)\n```", section("See it work"), re.MULTILINE | re.DOTALL)
    assert install == "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/proxyctl demo"
    assert tests == ".venv/bin/pytest"


def test_ci_runs_the_tests_as_the_readme_says() -> None:
    assert (ROOT / ".ci/run").read_text().endswith('\nREQUIRE_ALL=1 "$scratch/venv/bin/pytest"\n')


def test_every_verb_that_is_named_exists() -> None:
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    code = "\n".join([*blocks("sh"), *re.findall(r"`([^`]+)`", prose)])
    named = set(re.findall(r"\bproxyctl ([a-z]+)", code))
    assert named >= {"swap", "demo"}
    assert named <= set(VERBS)


def test_every_verb_is_in_the_table() -> None:
    told = set(re.findall(r"`proxyctl (\w+)", section("Commands")))
    assert told >= set(VERBS)


@pytest.mark.parametrize("block", blocks("toml"), ids=["walk", "tour"])
def test_every_config_is_valid(block: str, tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(block)
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
    config.load(path)


def test_every_metric_that_is_named_exists() -> None:
    named = named_in(README)
    assert len(named) == 12
    assert named <= series_names()


def test_prometheus_accepts_the_queries(tmp_path: Path) -> None:
    queries = "".join(f"\n  - record: query:{number}\n    expr: {q}" for number, q in enumerate(blocks("promql")))
    rules = tmp_path / "rules.yml"
    rules.write_text(f"groups:\n- name: readme\n  rules:{queries}\n")
    command = [need("promtool", package="prometheus"), "check", "rules", str(rules)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "2 rules found" in done.stdout) == (0, True), done.stdout + done.stderr


def test_every_file_that_is_linked_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_message_that_is_explained_is_one_the_program_has() -> None:
    source = "".join(path.read_text() for path in (ROOT / "proxy").rglob("*.py"))
    quoted = re.findall(r'"([^"]+)"', "".join(re.findall(r"\*\*(.+?)\*\*", section("Troubleshooting"))))
    fragments = [part.strip() for message in quoted for part in message.split("…") if part.strip()]
    assert len(fragments) == 5
    assert [fragment for fragment in fragments if fragment not in source] == []
