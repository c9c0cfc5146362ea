"""The example configs are what people copy: they have to be right, and the reference has to be complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomli

from proxy.config import Settings, examine, load
from proxy.config.keys import keys_of, table_at

CONF = Path(__file__).parents[2] / "conf"
EXAMPLES = sorted(path for path in CONF.glob("*.toml"))
TABLES = [(), ("admin",), ("services", "web"), ("services", "web", "health"), ("services", "web", "drain"),
          ("services", "web", "versions", "v1")]  # fmt: skip


@pytest.fixture(scope="module")
def reference() -> Settings:
    return load(CONF / "reference.toml")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_valid(path: Path) -> None:
    load(path)


@pytest.mark.parametrize("name", ["minimal", "python-app"])
def test_the_examples_that_people_begin_with_raise_no_warnings(name: str) -> None:
    assert examine(CONF / f"{name}.toml").warnings == []


def test_the_reference_shows_the_defaults(reference: Settings, tmp_path: Path) -> None:
    required = tmp_path / "proxy.toml"
    required.write_text("""
        [services.web]
        listen = ["0.0.0.0:8080", "[::]:8080"]
        active = "v1"
        [services.web.versions.v1]
        command = ["./app", "--port", "{port}"]
    """)
    defaults = load(required)

    folders = {"services": {"web": {"versions": {"v1": {"cwd"}}}}}
    exclude = {"path": True, **folders}
    assert reference.model_dump(exclude=exclude) == defaults.model_dump(exclude=exclude)
    assert reference.services["web"].versions["v1"].cwd == CONF
    assert defaults.services["web"].versions["v1"].cwd == tmp_path


def test_the_reference_has_every_key_with_a_comment() -> None:
    text = (CONF / "reference.toml").read_text()
    table = tomli.loads(text)

    for path in TABLES:
        here = table
        for key in path:
            here = here[key]
        tables = {"admin", "services", "health", "drain", "versions"}
        for key in keys_of(table_at(path)):
            assert key in here or key == "address", f"{key} of {path}"
            assert key in tables or re.search(rf"(?m)^(# )?{key} +=", text)
    for header in re.findall(r"(?m)^\[.*\]$", text):
        assert f"\n\n{header}" in text or "#" in text.split(header)[0].rsplit("\n", 2)[-2]


def test_what_the_reference_leaves_commented_out_works_too(tmp_path: Path) -> None:
    text = (CONF / "reference.toml").read_text()
    version = text[text.index("[services.web.versions.v1]") :]
    (address,) = re.findall(r"(?m)^# (address = .*)$", version)
    path = tmp_path / "proxy.toml"
    path.write_text(text.replace(version, f"[services.web.versions.v1]\n{address}\n"))

    assert len(load(path).services["web"].versions["v1"].address) == 3
