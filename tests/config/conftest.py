"""Configs in temporary files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.errors import ConfigError, Problem

WriteConfig = Callable[[str], Path]

MINIMAL = """\
[services.web]
listen = "127.0.0.1:8080"
active = "v1"
[services.web.versions.v1]
command = "./app --port {port}"
"""


@pytest.fixture
def minimal() -> str:
    """The text of a config with one service "web" and one version "v1"; what is added to it belongs to the version."""
    return MINIMAL


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Write a config's text to a file and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "proxy.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def problems_of(write_config: WriteConfig) -> Callable[[str], list[Problem]]:
    """Load a config's text, which has to fail, and return what is wrong with it."""
    from proxy.config import load

    def problems(text: str) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            load(write_config(text))
        return caught.value.problems

    return problems
