"""Whether connections can be steered on this machine, and which data path each service of a running proxy has."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.cli.client import Client
from proxy.cli.finding import Finding
from proxy.cli.overview import fallback
from proxy.cli.where import Where
from proxy.errors import ProxyError
from proxy.kernel import bpf, bpffs, capabilities, sk_lookup
from proxy.kernel.capabilities import Capability

if TYPE_CHECKING:
    from collections.abc import Sequence

_PINS = Path("/sys/fs/bpf/proxyctl")
_NEEDED = (Capability.BPF, Capability.NET_ADMIN)
_ALL = (*_NEEDED, Capability.SYS_PTRACE)
_PATIENCE = 5.0  # seconds for a running proxy to answer


@dataclass(frozen=True)
class Abilities:
    """What steering needs. `capabilities`: the bits of those in effect. `refused`: what the kernel said when a program
    and its maps were tried, empty if it took them.
    """

    release: str
    capabilities: int
    mounted: bool
    writable: bool
    first_namespace: bool
    refused: str


def look() -> Finding:
    """Look at this machine, and try: a program is loaded, and not attached to anything."""
    return steering(
        Abilities(
            release=platform.release(),
            capabilities=capabilities.effective(),
            mounted=bpffs.is_mounted(),
            writable=_can_be_written(_PINS),
            first_namespace=capabilities.in_first_user_namespace(),
            refused=_try(),
        )
    )


def steering(able: Abilities) -> Finding:
    numbers = tuple(int(number) for number in re.findall(r"\d+", able.release)[:2])
    if numbers < (5, 10):
        return _not_available([f"Linux 5.10 or newer is needed, and this is {able.release}"])
    missing = capabilities.missing(_NEEDED, able.capabilities)
    obstacles = _obstacles(able, missing)
    if obstacles:
        return _not_available(obstacles)
    if not capabilities.has(Capability.SYS_PTRACE, able.capabilities):
        lost = "without CAP_SYS_PTRACE, backends of other users are relayed, and others too after a crash of control"
        return Finding("steering", "warn", "available, but not for every backend", "\n".join([lost, *_grant()]))
    return Finding("steering", "ok", 'the kernel takes the program: datapath = "steer" is available')


def _obstacles(able: Abilities, missing: Sequence[Capability]) -> list[str]:
    lines = []
    if missing:
        lines += [f"without {' and '.join(each.title for each in missing)}, no program can be attached", *_grant()]
    elif able.refused and not able.first_namespace:
        lines.append(f"{able.refused}: in a user namespace, capabilities do not reach as far as bpf(2)")
    elif able.refused:
        hint = "a seccomp profile may be in the way (docker: --security-opt seccomp=PROFILE)"
        lines.append(f"{able.refused}: {hint}")
    if not able.mounted and capabilities.has(Capability.SYS_ADMIN, able.capabilities):
        return lines  # the proxy mounts one
    if not able.mounted:
        lines.append("there is no bpf file system: mount -t bpf bpf /sys/fs/bpf (docker: -v /sys/fs/bpf:/sys/fs/bpf)")
    elif not able.writable:
        user = os.geteuid()
        lines.append(f"no permission to write in {_PINS}: chmod o+x /sys/fs/bpf && install -d -o {user} {_PINS}")
        lines.append("systemd: ProtectKernelTunables=no")
    return lines


def _not_available(obstacles: Sequence[str]) -> Finding:
    return Finding(
        "steering", "warn", 'not available: with datapath = "steer" connections are relayed', "\n".join(obstacles)
    )


def _grant() -> list[str]:
    names = [each.title for each in _ALL]
    options = " ".join(f"--cap-add {name.removeprefix('CAP_')}" for name in names)
    return [
        f"systemd: AmbientCapabilities={' '.join(names)}",
        f"docker: {options}",
        f"for all that this Python runs: setcap {','.join(names).lower()}+ep {os.path.realpath(sys.executable)}",
    ]


def _try() -> str:
    try:
        with sk_lookup.make_maps() as maps:
            os.close(bpf.load(sk_lookup.program(maps), name="proxyctl_doctor"))
    except OSError as error:
        return str(error)
    return ""


def _can_be_written(folder: Path) -> bool:
    """Whether the folder, or what of its parents is there, can be written to."""
    nearest = next(each for each in (folder, *folder.parents) if os.path.exists(each))
    return os.access(nearest, os.W_OK | os.X_OK)


def in_effect(control_socket: Path) -> list[Finding]:
    """The data path of each service of the proxy that runs there; nothing if none answers."""
    try:
        services = Client(Where(control_socket, "--socket"), _PATIENCE).get("/v1/status")["services"]
    except ProxyError:
        return []
    value = ", ".join(f"{name}: {service['datapath']}" for name, service in services.items())
    fallen = [f"{name}: {text}" for name, service in services.items() if (text := fallback(service))]
    return [Finding("data paths", "warn" if fallen else "ok", value, "\n".join(fallen))]
