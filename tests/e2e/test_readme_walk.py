"""The five minutes of the README, line by line: a command that does not work there sends the reader away."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import configs
from tests.e2e.harness import PATIENCE, Proxy, eventually, fetch, free_port
from tests.tools import need

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def walk() -> list[tuple[str, str]]:
    """The blocks of the section: language and text, with ports that are free here in place of those in the text."""
    text = README.partition("## Five minutes")[2].partition("\n## ")[0]
    for port in ("8080", "9900"):
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_walk_works_as_written(walk: list[tuple[str, str]], tmp_path: Path) -> None:
    need("curl", package="curl")
    assert [language for language, _ in walk] == ["sh", "toml", "sh", "sh"]
    (_, setup), (_, config), (_, run), (_, commands) = walk
    port = int(re.findall(r"listen = \"127\.0\.0\.1:(\d+)\"      # the public port", config)[0])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if name != "PROXYCTL_SOCKET"} | {"PATH": path}

    def sh(line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode == 0) == ("# fails" not in line), f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    sh(setup)
    (tmp_path / "proxy.toml").write_text(config)
    check, serve = run.splitlines()
    assert "is valid" in sh(check)
    with subprocess.Popen(serve.split(), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as proxy:
        try:
            eventually(lambda: answers(port), what="the first version to serve")
            told = [(line, sh(line)) for line in commands.splitlines()]
            proxy.wait(PATIENCE)
        finally:
            proxy.terminate()
    assert proxy.returncode == 0
    for line, output in told:
        if promised := re.search(r"# (hello from v\d)$", line):
            assert promised[1] in output, line
    outputs = {line.partition(" #")[0].strip(): output for line, output in told}
    assert "exited with status 1" in outputs['proxyctl swap v3 --command "false"']
    assert "v1 serves" in outputs["proxyctl rollback"]
    assert 'proxy_swaps_total{result="failed",service="web"} 1.0' in told[-2][1]


def test_the_examples_of_the_api_work_as_written(tmp_path: Path) -> None:
    need("curl", package="curl")
    (commands,) = re.findall(
        r"^```sh\n(.*?)^```", README.partition("## The API\n")[2].partition("\n## ")[0], re.MULTILINE | re.DOTALL
    )
    admin = free_port()
    config = configs.service(free_port(), v1=configs.backend(), v2=configs.backend())
    with Proxy(tmp_path, config, admin=f'listen = "127.0.0.1:{admin}"'):
        told = {}
        for line in commands.replace("127.0.0.1:9900", f"127.0.0.1:{admin}").splitlines():
            done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            told[line.partition("/v1/")[2]] = done.stdout
        said = list(told.values())
        assert json.loads(said[0])["services"]["web"]["active"] == "v1"
        assert '"openapi": "3.1.0"' in said[1]
        assert json.loads(said[2])["result"] == "swapped"
        assert json.loads(said[3])["to"] == "v1"
        assert "event: " in said[4]
        assert json.loads(said[5])["history"][0]["to"] == "v2"


def answers(port: int) -> bool:
    try:
        return bool(fetch(port))
    except OSError:
        return False
