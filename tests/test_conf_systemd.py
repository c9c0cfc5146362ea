"""A unit with a mistake would be found out on somebody's server, at boot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.tools import need

UNIT = Path(__file__).parents[1] / "conf/proxyctl.service"


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    installed = "/opt/proxyctl/bin/proxyctl"
    text = UNIT.read_text()
    assert f"ExecStart={installed} run /etc/proxyctl/proxy.toml\n" in text
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(installed, sys.executable))  # systemd looks whether it is there
    command = [need("systemd-analyze", package="systemd"), "verify", "--man=no", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
