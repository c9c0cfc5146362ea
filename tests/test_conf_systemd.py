"""A unit with a mistake would be found out on somebody's server, at boot."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from proxy.config import load
from tests.tools import need

CONF = Path(__file__).parents[1] / "conf"
SERVICE, SOCKET = CONF / "systemd/proxyctl.service", CONF / "systemd/proxyctl.socket"
INSTALLED = "/opt/proxyctl/bin/proxyctl"


def verify(*units: Path) -> None:
    command = [need("systemd-analyze", package="systemd"), "verify", "--man=no", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def installed(unit: Path, folder: Path, text: str | None = None) -> Path:
    """A copy in which the program is one that exists here: systemd looks whether it does."""
    copy = folder / unit.name
    copy.write_text((text or unit.read_text()).replace(INSTALLED, sys.executable))
    return copy


def values(unit: Path, key: str) -> list[str]:
    return re.findall(rf"(?m)^{key}=(.*)$", unit.read_text())


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    assert values(SERVICE, "ExecStart") == [f"{INSTALLED} run /etc/proxyctl/proxy.toml"]
    assert values(SERVICE, "ExecReload") == [f"{INSTALLED} reload"]
    verify(installed(SERVICE, tmp_path), installed(SOCKET, tmp_path))


def test_systemd_accepts_what_is_commented_out_too(tmp_path: Path) -> None:
    """Without root, and with a second service."""
    service = re.sub(r"(?m)^#(?=\w+=)", "", SERVICE.read_text())
    service = service.replace("[Install]", "Sockets=proxyctl.socket proxyctl-api.socket\n[Install]")
    second = SOCKET.read_text().partition("proxyctl-api.socket for example:\n#\n")[2].partition("#\n# A restart")[0]
    api = tmp_path / "proxyctl-api.socket"
    api.write_text(re.sub(r"(?m)^#(   )?", "", second))
    assert "FileDescriptorName=api" in api.read_text()
    everywhere = (
        SOCKET.read_text().replace("ListenStream=127", "#ListenStream=127").replace("#ListenStream=0", "ListenStream=0")
    )
    verify(installed(SERVICE, tmp_path, service), installed(SOCKET, tmp_path, everywhere), api)


def test_the_socket_is_the_one_of_the_config_that_is_installed_with_it() -> None:
    """Otherwise the proxy would close it as one that nobody wants, and bind its own."""
    services = load(CONF / "minimal.toml").services
    (name,) = values(SOCKET, "FileDescriptorName")
    assert values(SOCKET, "ListenStream") == [str(address) for address in services[name].listen]


def test_workers_and_backends_outlive_the_control_process() -> None:
    assert values(SERVICE, "KillMode") == ["process"]
    assert values(SERVICE, "OOMPolicy") == ["continue"]
    assert values(SERVICE, "RuntimeDirectoryPreserve") == ["restart"]
    assert not values(SERVICE, "PrivateTmp")
