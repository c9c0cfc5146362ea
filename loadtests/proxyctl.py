"""The proxy of this checkout, in front of backends that run elsewhere."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING

from loadtests.machine import running, version_of, wait_until
from loadtests.model import Relay
from loadtests.started import names, one_program, public_ports
from proxy.cli.client import Client
from proxy.cli.where import Where
from proxy.errors import NotRunningError
from proxy.relay import transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from loadtests.model import Backends, Running

PROXYCTL = (sys.executable, "-P", "-m", "proxy.cli")

# "v2" is at the same address: what a swap costs is then the proxy's own work alone.
_SERVICE = """\
[services.{name}]
listen = "127.0.0.1:{port}"
active = "v1"
protocol = "{protocol}"
health.type = "{health}"
versions.v1.address = "127.0.0.1:{backend}"
versions.v2.address = "127.0.0.1:{backend}"
"""


def proxyctl(protocol: str, workers: int) -> Relay:
    name = f"proxyctl {protocol.upper()}"
    return Relay(name, "proxyctl", protocol, workers, _start(protocol, workers), version)


def version() -> str:
    """Like "proxyctl, version 0.1.0 (compiled)": whether what it does for every message is."""
    return f"{version_of([*PROXYCTL, '--version'])} ({'compiled' if transfer.IS_COMPILED else 'pure Python'})"


@contextmanager
def serving(
    folder: Path, backends: Backends, ports: Mapping[int, int], *, workers: int, protocol: str = "tcp", health: str
) -> Iterator[tuple[int, Path]]:
    """Run it until the block ends; yields its pid and control socket. `ports`: a public one for each backend's."""
    services = (
        _SERVICE.format(name=name, port=ports[backend], backend=backend, protocol=protocol, health=health)
        for backend, name in names(backends).items()
    )
    with configured(folder, "".join(services), workers=workers) as up:
        yield up


@contextmanager
def configured(folder: Path, services: str, *, workers: int) -> Iterator[tuple[int, Path]]:
    """The same, with tables of services as they are given; it is up when all of them serve."""
    config, control = folder / "proxy.toml", folder / "control.sock"
    config.write_text(f'state_dir = "{folder}/state"\nworkers = {workers}\n{services}')
    command = [*PROXYCTL, "--socket", str(control), "run", str(config)]
    with running(command, log=folder / "log", ready=lambda: _serves(control)) as pid:
        yield pid, control


def _start(protocol: str, workers: int) -> Callable[[Path, Backends], AbstractContextManager[Running]]:
    @contextmanager
    def start(folder: Path, backends: Backends) -> Iterator[Running]:
        ports = public_ports(backends)
        ours = serving(folder, backends, ports, workers=workers, protocol=protocol, health="tcp")
        with ours as (pid, control):
            yield one_program(pid, ports, swaps(control))

    return start


def swaps(control: Path) -> Callable[[], None]:
    """From one to the other of the versions v1 and v2 of the service "web", with the command that a user types."""
    client, versions = Client(Where(control, "")), cycle(("v2", "v1"))

    def state() -> dict[str, object]:
        return dict(client.get("/v1/services/web"))

    def swap() -> None:
        wait_until(lambda: state()["state"] == "serving", "the swap before this one is not done", patience=60)
        version = next(versions)
        command = [*PROXYCTL, "--socket", str(control), "swap", version, "--service", "web", "--no-wait"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wait_until(lambda: state()["active"] == version, f"{version} does not become active")

    return swap


def _serves(control: Path) -> bool:
    """Whether all workers run and the backends are healthy."""
    try:
        services = Client(Where(control, "")).get("/v1/status")["services"]
    except NotRunningError:
        return False
    return all(service["state"] == "serving" for service in services.values())
