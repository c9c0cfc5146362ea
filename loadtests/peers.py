"""Who is measured: the same backend, reached directly, through this proxy, through HAProxy and through nginx."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from machine import answers, family, find, free_port, running
from ours import proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    # Takes a folder of its own and the backend's port.
    Start = Callable[[Path, int], AbstractContextManager["Peer"]]

FORWARDED = ("append", "off")

_BULK_BYTES = 1 << 38  # never fetched whole
_SMALL = b"x" * 128
_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@dataclass(frozen=True)
class Peer:
    """A way to the backend that is up: the port, and the processes whose CPU time it costs (none for `direct`).

    `workers` are those of them that hold the connections.
    """

    port: int
    pids: frozenset[int]
    workers: frozenset[int]


@dataclass(frozen=True)
class Kind:
    """`start` brings one up in a folder, in front of the backend's port; `missing` says why it cannot, or is empty.

    `beside` are the names of those it is to be compared with.
    """

    name: str
    start: Start
    missing: str = ""
    beside: tuple[str, ...] = ()


def kinds(forwarded: str = "append") -> list[Kind]:
    """All that can be compared, in the order of the table. `forwarded`, one of FORWARDED: what HTTP relays add."""
    no_haproxy = "" if find("haproxy") else "haproxy is not installed: apt-get install haproxy"
    no_stream = "" if _STREAM_MODULE.exists() else f"no {_STREAM_MODULE}: apt-get install libnginx-mod-stream"
    return [
        Kind("direct", _direct),
        Kind("proxyctl TCP, 1", _ours(1, "tcp"), beside=("HAProxy TCP, 1", "nginx stream, 1")),
        Kind("proxyctl TCP, 2", _ours(2, "tcp"), beside=("HAProxy TCP, 2", "nginx stream, 2")),
        *(Kind(f"HAProxy TCP, {count}", _haproxy_tcp(count), no_haproxy) for count in (1, 2)),
        *(Kind(f"nginx stream, {count}", _nginx_stream(count), no_stream) for count in (1, 2)),
        Kind(
            "proxyctl HTTP, 1",
            _ours(1, "http", forwarded),
            beside=("HAProxy HTTP, 1", "nginx HTTP, 1", "proxyctl TCP, 1"),
        ),
        Kind("proxyctl HTTP, 2", _ours(2, "http", forwarded), beside=("HAProxy HTTP, 2", "proxyctl TCP, 2")),
        *(Kind(f"HAProxy HTTP, {count}", _haproxy_http(count, forwarded), no_haproxy) for count in (1, 2)),
        Kind("nginx HTTP, 1", _nginx_http(1, forwarded)),
    ]


def choose(every: list[Kind], only: str) -> list[Kind]:
    """Those with this regular expression in their names that can be had; says on stderr what is left out, and why."""
    asked = [kind for kind in every if re.search(only, kind.name, re.IGNORECASE)]
    if not asked:
        print(f"--only {only}: none of {'; '.join(kind.name for kind in every)}", file=sys.stderr)
    for kind in asked:
        if kind.missing:
            print(f"left out: {kind.name}: {kind.missing}", file=sys.stderr)
    return [kind for kind in asked if not kind.missing]


def pattern(text: str) -> str:
    """The type of an option that is a regular expression, for argparse."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None
    return text


@contextmanager
def backend(folder: Path) -> Iterator[int]:
    """An nginx with one small and one large (sparse) file; yields its port.

    Below /varied/ it gives the small file under any name, and no two responses have the same head.
    """
    root = folder / "www"
    root.mkdir()
    (root / "small").write_bytes(_SMALL)
    with (root / "bulk").open("wb") as file:
        file.truncate(_BULK_BYTES)
    folder.chmod(0o755)  # its workers run as another user
    port = free_port()
    config = _nginx_head(folder, 1, stream=False) + (
        f"http {{ access_log off; sendfile on; keepalive_requests 1000000000; {_temporary(folder)}"
        f"server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; "
        "location /varied/ { try_files /small =404; add_header Content-Location $request_uri; } } }\n"
    )
    with _nginx(folder, config, port):
        yield port


def _peer(port: int, pid: int) -> Peer:
    pids = family(pid)
    return Peer(port, frozenset(pids), frozenset(pids - {pid} or pids))


@contextmanager
def _direct(_folder: Path, backend_port: int) -> Iterator[Peer]:
    yield Peer(backend_port, frozenset(), frozenset())


def _ours(workers: int, protocol: str, forwarded: str = "append") -> Start:
    @contextmanager
    def start(folder: Path, backend_port: int) -> Iterator[Peer]:
        port = free_port()
        ours = proxy(folder, port, backend_port, workers=workers, health="tcp", protocol=protocol, forwarded=forwarded)
        with ours as (pid, _):
            yield _peer(port, pid)

    return start


def _haproxy_tcp(threads: int) -> Start:
    return _haproxy(threads, "  mode tcp\n")


def _haproxy_http(threads: int, forwarded: str) -> Start:
    settings = "  mode http\n  option http-keep-alive\n  http-reuse safe\n  timeout http-keep-alive 60s\n"
    rules = (
        "  option forwardfor\n  http-request set-header X-Forwarded-Proto http\n"
        "  http-request set-header X-Forwarded-Host %[req.hdr(host)]\n"
    )
    return _haproxy(threads, settings, rules if forwarded == "append" else "")


def _haproxy(threads: int, defaults: str, rules: str = "") -> Start:
    @contextmanager
    def start(folder: Path, backend_port: int) -> Iterator[Peer]:
        port = free_port()
        config = folder / "haproxy.cfg"
        config.write_text(
            f"global\n  nbthread {threads}\n  maxconn 4096\n"
            f"defaults\n{defaults}  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
            f"listen web\n  bind 127.0.0.1:{port}\n{rules}  server backend 127.0.0.1:{backend_port}\n"
        )
        command = [find("haproxy") or "haproxy", "-db", "-f", str(config)]
        with running(command, log=folder / "log", ready=lambda: answers(port)) as pid:
            yield _peer(port, pid)

    return start


def _nginx_stream(workers: int) -> Start:
    @contextmanager
    def start(folder: Path, backend_port: int) -> Iterator[Peer]:
        port = free_port()
        config = _nginx_head(folder, workers, stream=True) + (
            f"stream {{ server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass 127.0.0.1:{backend_port}; }} }}\n"
        )
        with _nginx(folder, config, port) as pid:
            yield _peer(port, pid)

    return start


def _nginx_http(workers: int, forwarded: str) -> Start:
    fields = {"Connection": '""', "Host": "$http_host"}
    if forwarded == "append":
        fields |= {"X-Forwarded-For": "$proxy_add_x_forwarded_for", "X-Forwarded-Proto": "$scheme"}
        fields |= {"X-Forwarded-Host": "$http_host"}
    headers = "".join(f"proxy_set_header {name} {value}; " for name, value in fields.items())

    @contextmanager
    def start(folder: Path, backend_port: int) -> Iterator[Peer]:
        port = free_port()
        # Neither its limits of requests per connection nor the disk are what is to be measured.
        config = _nginx_head(folder, workers, stream=False) + (
            f"http {{ access_log off; keepalive_requests 1000000000; {_temporary(folder)}"
            f"upstream backend {{ server 127.0.0.1:{backend_port}; keepalive 1024; keepalive_requests 1000000000; }}\n"
            f"server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://backend; "
            f"proxy_http_version 1.1; proxy_max_temp_file_size 0; {headers}}} }} }}\n"
        )
        with _nginx(folder, config, port) as pid:
            yield _peer(port, pid)

    return start


@contextmanager
def _nginx(folder: Path, config: str, port: int) -> Iterator[int]:
    path = folder / "nginx.conf"
    path.write_text(config)
    command = [find("nginx") or "nginx", "-e", "stderr", "-p", str(folder), "-c", str(path)]
    with running(command, log=folder / "nginx.log", ready=lambda: answers(port)) as pid:
        yield pid


def _nginx_head(folder: Path, workers: int, *, stream: bool) -> str:
    module = f"load_module {_STREAM_MODULE};\n" if stream else ""
    return (
        f"{module}daemon off; pid {folder}/nginx.pid; error_log stderr error; worker_processes {workers};\n"
        "worker_rlimit_nofile 8192; events { worker_connections 8192; }\n"
    )


def _temporary(folder: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds)
