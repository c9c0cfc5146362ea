"""nginx: as a relay of TCP (its stream module) and of HTTP, and what the backend needs of it."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.machine import answers, descriptor_limit, find, running, version_of
from loadtests.model import HTTP, TCP, Relay
from loadtests.started import MANY, public_ports, reloads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from loadtests.model import Backends, Running

_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

# What it says to backends. An Upgrade is passed on; otherwise the connection to the backend is kept.
_FIELDS = {
    "Connection": "$connection_upgrade",
    "Upgrade": "$http_upgrade",
    "Host": "$http_host",
    "X-Forwarded-For": "$proxy_add_x_forwarded_for",
    "X-Forwarded-Proto": "$scheme",
    "X-Forwarded-Host": "$http_host",
}
_MAP = "map $http_upgrade $connection_upgrade { default upgrade; '' ''; }\n"
_LOCATION = (
    "proxy_http_version 1.1; proxy_max_temp_file_size 0; proxy_request_buffering off; proxy_read_timeout 1h; "
    "proxy_send_timeout 1h; " + "".join(f"proxy_set_header {name} {value}; " for name, value in _FIELDS.items())
)


def stream(workers: int) -> Relay:
    return Relay("nginx stream", "nginx", TCP, workers, _start(workers, is_stream=True), version, missing_stream())


def http(workers: int) -> Relay:
    return Relay("nginx HTTP", "nginx", HTTP, workers, _start(workers, is_stream=False), version, missing())


def missing() -> str:
    return "" if find("nginx") else "nginx is not installed: apt-get install nginx-light"


def missing_stream() -> str:
    if _STREAM_MODULE.exists():
        return missing()
    return missing() or f"no {_STREAM_MODULE}: apt-get install libnginx-mod-stream"


def version() -> str:
    return version_of([find("nginx") or "nginx", "-v"]).removeprefix("nginx version: ").replace("/", " ")


@contextmanager
def serving(folder: Path, config: str, port: int) -> Iterator[int]:
    """Run it with this configuration; yields the master's pid once a small request to the port is answered."""
    path = folder / "nginx.conf"
    path.write_text(config)
    command = [find("nginx") or "nginx", "-e", "stderr", "-p", str(folder), "-c", str(path)]
    with running(command, log=folder / "log", ready=lambda: answers(port)) as pid:
        yield pid


def head(folder: Path, workers: int, *, module: str = "") -> str:
    """Everything outside of the http or stream block. Workers stay root where it is: folders of tests are private."""
    user = "user root; " if os.geteuid() == 0 else ""
    limit = min(descriptor_limit(), 2 * MANY)
    return (
        f"{module}{user}daemon off; pid {folder}/nginx.pid; error_log stderr error; worker_processes {workers};\n"
        f"worker_rlimit_nofile {limit}; events {{ worker_connections {limit}; }}\n"
    )


def http_settings(folder: Path) -> str:
    """No log, no limits of requests per connection, no idle timeouts to speak of, and files where they are deleted."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds)
    return (
        "access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; client_header_timeout 1h; "
        f"client_max_body_size 0; {paths}\n"
    )


def _start(workers: int, *, is_stream: bool) -> Callable[[Path, Backends], AbstractContextManager[Running]]:
    @contextmanager
    def start(folder: Path, backends: Backends) -> Iterator[Running]:
        ports = public_ports(backends)
        module = f"load_module {_STREAM_MODULE};\n" if is_stream else ""
        config = head(folder, workers, module=module) + (_stream(ports) if is_stream else _http(folder, ports))
        with serving(folder, config, ports[backends.web]) as pid:
            yield reloads(pid, signal.SIGHUP, ports, folder / "log")

    return start


def _stream(ports: Mapping[int, int]) -> str:
    servers = (
        f"server {{ listen 127.0.0.1:{public} backlog=4096; proxy_pass 127.0.0.1:{backend}; }}\n"
        for backend, public in ports.items()
    )
    return f"stream {{ proxy_timeout 1h;\n{''.join(servers)}}}\n"


def _http(folder: Path, ports: Mapping[int, int]) -> str:
    servers = (
        f"upstream u{backend} {{ server 127.0.0.1:{backend}; keepalive 1024; keepalive_requests 1000000000; "
        f"keepalive_timeout 1h; }}\n"
        f"server {{ listen 127.0.0.1:{public} backlog=4096; location / {{ proxy_pass http://u{backend}; "
        f"{_LOCATION}}} }}\n"
        for backend, public in ports.items()
    )
    return f"http {{ {http_settings(folder)}{_MAP}{''.join(servers)}}}\n"
