"""The example configs are what people copy: they have to be right, and the reference has to be complete."""

import re
from pathlib import Path

import pytest
import tomli

from proxy.config import Settings, examine, load
from proxy.config.keys import keys_of, table_at

CONF = Path(__file__).parents[2] / "conf"
EXAMPLES = sorted(path for path in CONF.glob("*.toml"))
TABLES = [(), ("admin",), ("steering",), ("services", "web"), ("services", "web", "http"),
          ("services", "web", "health"), ("services", "web", "drain"),
          ("services", "web", "versions", "v1")]  # fmt: skip


@pytest.fixture(scope="module")
def reference() -> Settings:
    return load(CONF / "reference.toml")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_valid(path: Path) -> None:
    load(path)


@pytest.mark.parametrize("name", ["minimal", "python-app", "steer", "inherit"])
def test_the_examples_that_people_begin_with_raise_no_warnings(name: str) -> None:
    assert [each for each in examine(CONF / f"{name}.toml").warnings if "/srv/" not in each.message] == []


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

    exclude = {"path": True, "services": {"web": {"versions": {"v1": {"cwd"}}}}}
    assert reference.model_dump(exclude=exclude) == defaults.model_dump(exclude=exclude)
    assert reference.services["web"].versions["v1"].cwd == CONF
    assert defaults.services["web"].versions["v1"].cwd == tmp_path


@pytest.mark.parametrize("path", TABLES, ids=".".join)
def test_the_reference_has_every_key(path: tuple[str, ...]) -> None:
    table = tomli.loads((CONF / "reference.toml").read_text())
    for key in path:
        table = table[key]

    assert list(table) == [key for key in keys_of(table_at(path)) if key != "address"]


def test_every_key_of_the_reference_is_explained_above_it() -> None:
    lines = (CONF / "reference.toml").read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"(# address|\w+) *=", line)]

    for number in keys:
        above = lines[number - 1]
        assert above.startswith("#") or number - 1 in keys, lines[number]


def test_what_the_reference_leaves_commented_out_works_too(tmp_path: Path) -> None:
    text = (CONF / "reference.toml").read_text()
    version = text[text.index("[services.web.versions.v1]") :]
    (address,) = re.findall(r"(?m)^# (address = .*)$", version)
    path = tmp_path / "proxy.toml"
    path.write_text(text.replace(version, f"[services.web.versions.v1]\n{address}\n"))

    assert len(load(path).services["web"].versions["v1"].address) == 3
