"""`proxyctl doctor` on steering: what it says is missing is missing, and what it says is available works."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from proxy.cli import datapaths
from proxy.cli.datapaths import Abilities, steering

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import FakeProxy

NET_ADMIN, SYS_PTRACE, SYS_ADMIN, BPF = (1 << number for number in (12, 19, 21, 39))
ABLE = Abilities(
    release="6.18.44",
    capabilities=NET_ADMIN | SYS_PTRACE | BPF,
    mounted=True,
    writable=True,
    first_namespace=True,
    refused="",
)
REFUSED = "cannot make the map listeners: Operation not permitted"


def test_a_machine_that_takes_the_program_is_said_to_be_able() -> None:
    assert (steering(ABLE).level, steering(ABLE).fix) == ("ok", "")
    assert steering(replace(ABLE, capabilities=NET_ADMIN | SYS_PTRACE | SYS_ADMIN)).level == "ok"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"release": "5.4.0-generic"}, "Linux 5.10 or newer is needed, and this is 5.4.0-generic"),
        ({"capabilities": 0, "refused": REFUSED}, "without CAP_BPF and CAP_NET_ADMIN, no program can be attached"),
        ({"capabilities": BPF, "refused": REFUSED}, "without CAP_NET_ADMIN, no"),
        ({"capabilities": NET_ADMIN, "refused": REFUSED}, "without CAP_BPF, no"),
        ({"refused": REFUSED}, f"{REFUSED}: a seccomp profile may be in the way"),
        ({"refused": REFUSED, "first_namespace": False}, "in a user namespace"),
        ({"mounted": False, "writable": False}, "mount -t bpf bpf /sys/fs/bpf"),
        ({"writable": False}, f"install -d -o {os.geteuid()} /sys/fs/bpf/proxyctl"),
    ],
)
def test_what_is_missing_is_named_with_how_to_get_it(changes: dict[str, object], says: str) -> None:
    finding = steering(replace(ABLE, **changes))  # type: ignore[arg-type]
    assert (finding.level, finding.value[:14]) == ("warn", "not available:")
    assert says in finding.fix


def test_a_file_system_that_the_proxy_mounts_by_itself_is_nothing_to_do() -> None:
    everything = NET_ADMIN | SYS_PTRACE | SYS_ADMIN
    assert steering(replace(ABLE, mounted=False, writable=False, capabilities=everything)).level == "ok"


@pytest.mark.parametrize("held", [0, BPF, NET_ADMIN | BPF])
def test_capabilities_can_be_granted_in_the_way_that_the_proxy_is_run(held: int) -> None:
    fix = steering(replace(ABLE, capabilities=held)).fix
    assert "systemd: AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_SYS_PTRACE" in fix
    assert "docker: --cap-add BPF --cap-add NET_ADMIN --cap-add SYS_PTRACE" in fix
    assert f"setcap cap_bpf,cap_net_admin,cap_sys_ptrace+ep {os.path.realpath(sys.executable)}" in fix


def test_backends_of_others_need_one_capability_more() -> None:
    finding = steering(replace(ABLE, capabilities=NET_ADMIN | BPF))
    assert (finding.level, finding.value) == ("warn", "available, but not for every backend")
    assert "without CAP_SYS_PTRACE, backends of other users are relayed" in finding.fix


def test_everything_that_is_missing_is_told_at_once() -> None:
    fix = steering(replace(ABLE, capabilities=0, mounted=False)).fix
    assert "without CAP_BPF" in fix
    assert "mount -t bpf" in fix


def test_it_is_really_tried_and_nothing_is_left_of_it() -> None:
    before = os.listdir("/proc/self/fd")
    finding = datapaths.look()
    assert finding.name == "steering"
    assert (finding.level == "ok") == (finding.fix == "")
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_user_without_capabilities_is_told_which() -> None:
    # The first look imports everything that it needs, which somebody else may not be able to read.
    look = "from proxy.cli import datapaths; found = datapaths.look()"
    code = f"import os; {look}; os.setgid(65534); os.setuid(65534); {look}; print(found.level, found.fix)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("warn without CAP_BPF and CAP_NET_ADMIN, no program can be attached\n")


def test_the_data_paths_of_a_running_proxy_are_shown(proxy: FakeProxy) -> None:
    (finding,) = datapaths.in_effect(proxy.socket)
    assert (finding.name, finding.level, finding.value, finding.fix) == ("data paths", "ok", "web: relay", "")


def test_a_service_that_is_relayed_although_it_should_be_steered_is_a_warning(proxy: FakeProxy) -> None:
    services = proxy.control.state["services"]
    services["db"] = {**services["web"], "datapath_configured": "steer", "datapath_reason": "CAP_BPF is missing"}
    (finding,) = datapaths.in_effect(proxy.socket)
    assert (finding.level, finding.value) == ("warn", "web: relay, db: relay")
    assert finding.fix == 'db: "steer" is configured, and "relay" in effect: CAP_BPF is missing'


def test_without_a_proxy_there_is_nothing_to_show(tmp_path: Path) -> None:
    assert datapaths.in_effect(tmp_path / "control.sock") == []
