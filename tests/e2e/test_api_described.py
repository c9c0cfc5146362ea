"""schemathesis asks the whole API of a running proxy, by its own description: no 5xx, no answer that is not described,
and nothing changed by what is not valid, or not allowed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e import configs
from tests.e2e.harness import Proxy, free_port
from tests.tools import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACT, READ = "act-" + "a" * 28, "read-" + "r" * 27

# Who may ask is tried elsewhere: each wrong token is answered late, so that it takes time. A POST where none belongs is
# is refused before anybody looks where it leads.
_LEFT_OUT = "ignored_auth,unsupported_method,positive_data_acceptance"
# What exists, so that it is not only answered 404; and what ends.
_PARAMETERS = '[parameters]\n"path.service" = "web"\n"path.version" = "v1"\n"query.follow" = false\n'


class Asked:
    """A proxy with tokens, and what to ask it by."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.admin = free_port()
        tokens = folder / "tokens"
        tokens.touch(mode=0o600)
        tokens.write_text(f"{ACT}\n{READ}\n")
        (folder / "schemathesis.toml").write_text(_PARAMETERS)
        config = configs.service(free_port(), drain='deadline = "1s"')
        self.proxy = Proxy(folder, config, admin=f'listen = "127.0.0.1:{self.admin}"\ntoken_file = "tokens"')

    def ask(self, token: str, mode: str, *without: str) -> int:
        """Run schemathesis; return how many requests it made."""
        if importlib.util.find_spec("schemathesis") is None:
            missing("schemathesis is not installed: pip install -e '.[page]'")
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{self.admin}/v1/openapi.json"]
        command += ["-H", f"Authorization: Bearer {token}", "--mode", mode, "-n", "8", "--generation-deterministic"]
        command += ["--checks", "all", "--exclude-checks", _LEFT_OUT, "--phases", "coverage,fuzzing"]
        command += ["--continue-on-failure", "--warnings", "off", "--request-timeout", "30"]
        for path in without:
            command += ["--exclude-path", path]
        environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "150"}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.proxy.log_text()}"
        found = re.search(r"(\d+) generated, \1 passed", done.stdout)
        assert found, done.stdout
        return int(found[1])

    def happened(self) -> dict[str, Any]:
        history: dict[str, Any] = self.proxy.ask("GET", "/v1/history?limit=1000")[1]
        return history

    def runs(self) -> Any:
        status = self.proxy.status()
        return [
            {"pid": status["proxy"]["pid"], "workers": [each["pid"] for each in status["proxy"]["workers"]]},
            {
                name: {"state": each["state"], "active": each["active"], "generations": each["generations"]}
                for name, each in status["services"].items()
            },
        ]


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    asked = Asked(tmp_path)
    with asked.proxy:
        yield asked


def test_what_is_not_valid_or_not_allowed_is_refused_and_changes_nothing(asked: Asked) -> None:
    before = asked.runs()
    assert asked.ask(READ, "all", "/v1/events") > 100
    assert asked.ask(ACT, "negative") > 100
    assert asked.runs() == before
    assert asked.happened() == {"history": [], "actions": []}
    assert "Traceback" not in asked.proxy.log_text()


def test_what_is_valid_is_answered_as_described(asked: Asked) -> None:
    assert asked.ask(ACT, "positive", "/v1/events", "/v1/stop", "/v1/upgrade") > 50
    actions = {each["action"] for each in asked.happened()["actions"]}
    assert actions >= {"restart", "pause", "resume", "reload"}
    assert "Traceback" not in asked.proxy.log_text()
