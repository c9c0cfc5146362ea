"""This proxy where it is in nobody's way: the kernel hands connections to the backends, or these accept by themselves.

Then it is the proxy that starts the backends. They are the servers that all other relays have behind them, of the same
programs and with the same configuration but for the port, so that they can be compared with these, reached directly.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtests import become_nginx, nginx
from loadtests.backends import web_config, web_root
from loadtests.machine import ROOT, find
from loadtests.model import INHERIT, STEER, TCP, Relay, Running
from loadtests.proxyctl import configured, swaps, version
from loadtests.started import names, public_ports
from proxy.cli import datapaths
from proxy.cli.client import Client
from proxy.cli.where import Where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from loadtests.model import Backends

_SERVICE = """\
[services.{name}]
listen = "127.0.0.1:{port}"
active = "v1"
datapath = "{datapath}"
health.type = "tcp"
drain.stop_signal = "{stop_signal}"
"""
_VERSION = """\
[services.{name}.versions.{version}]
command = {command}
cwd = {cwd}
env = {env}
"""


def steer() -> Relay:
    possible = datapaths.look()
    return _relay(STEER, possible.fix.partition("\n")[0] if possible.value.startswith("not available") else "")


def inherit() -> Relay:
    return _relay(INHERIT)


def _relay(datapath: str, lacking: str = "") -> Relay:
    missing = nginx.missing() or lacking
    return Relay(f"proxyctl {datapath}", "proxyctl", TCP, 1, _start(datapath), version, missing, datapath)


def _start(datapath: str) -> Callable[[Path, Backends], AbstractContextManager[Running]]:
    @contextmanager
    def start(folder: Path, backends: Backends) -> Iterator[Running]:
        ports = public_ports(backends)
        public = {name: ports[backend] for backend, name in names(backends).items()}
        with configured(folder, services(folder, datapath, public), workers=1) as (pid, control):
            _check(control, datapath)
            workers = _workers(control)
            # Its children are the backends too, which work no less for who connects to them directly.
            yield Running(ports, lambda: workers | {pid}, lambda: workers, swaps(control), may_idle=True)

    return start


def services(folder: Path, datapath: str, ports: Mapping[str, int]) -> str:
    """The tables of the configuration. `ports`: the public one of each service."""
    return "".join(
        _service(name, datapath, port, _web(folder, datapath, port) if name == "web" else _program(name, datapath))
        for name, port in ports.items()
    )


def _service(name: str, datapath: str, port: int, command: list[str]) -> str:
    # What nginx does on SIGTERM is to cut all connections; the programs in Python end, and are never swapped.
    stop_signal = "SIGQUIT" if name == "web" else "SIGTERM"
    env = '{ NGINX = "{fd};" }' if name == "web" and datapath == INHERIT else "{}"
    versions = (
        _VERSION.format(name=name, version=version, command=json.dumps(command), cwd=json.dumps(str(ROOT)), env=env)
        for version in ("v1", "v2")
    )
    head = _SERVICE.format(name=name, port=port, datapath=datapath, stop_signal=stop_signal)
    return head + "".join(versions)


def _web(folder: Path, datapath: str, public: int) -> list[str]:
    """The nginx. Of what it inherits (NGINX in its environment) it finds the socket by the address it is to listen on;
    the private port is for health checks then.
    """
    ports = (str(public), become_nginx.PORT) if datapath == INHERIT else (become_nginx.PORT,)
    template = folder / "nginx.template"
    template.write_text(web_config(Path(become_nginx.FOLDER), web_root(folder), *ports))
    program = [sys.executable, "-IS", become_nginx.__file__, find("nginx") or "nginx"]
    return [*program, str(template), f"{folder}/web-{{generation}}", "{port}"]


def _program(name: str, datapath: str) -> list[str]:
    where = "fd:{fd}" if datapath == INHERIT else "{port}"
    return [sys.executable, "-m", f"loadtests.scenarios.{name}_server", where]


def _workers(control: Path) -> frozenset[int]:
    """They stay when what serves is replaced."""
    return frozenset(int(worker["pid"]) for worker in _status(control)["proxy"]["workers"])


def _check(control: Path, datapath: str) -> None:
    """RuntimeError if connections are relayed all the same: that is measured under another name."""
    for name, service in _status(control)["services"].items():
        if service["datapath"] != datapath:
            raise RuntimeError(f"{name}: datapath {service['datapath']}: {service.get('datapath_reason', '')}")


def _status(control: Path) -> dict[str, Any]:
    return dict(Client(Where(control, "")).get("/v1/status"))
