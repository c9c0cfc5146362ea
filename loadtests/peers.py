"""Who is measured: the same backend, reached directly, through this proxy, through HAProxy and through nginx."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from machine import answers, family, find, free_port, running
from ours import proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

_BULK_BYTES = 1 << 38  # never fetched whole
_SMALL = b"x" * 128
_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@dataclass(frozen=True)
class Peer:
    """A way to the backend that is up: the port, and the processes whose CPU time it costs (none for `direct`)."""

    name: str
    port: int
    pids: frozenset[int]


@dataclass(frozen=True)
class Kind:
    """`start` brings one up in a folder, in front of the backend's port; `missing` says why it cannot, or is empty."""

    name: str
    start: Callable[[Path, int], AbstractContextManager[Peer]]
    missing: str = ""


def kinds() -> list[Kind]:
    """All that can be compared, in the order of the table."""
    no_haproxy = "" if find("haproxy") else "haproxy is not installed: apt-get install haproxy"
    no_stream = "" if _STREAM_MODULE.exists() else f"no {_STREAM_MODULE}: apt-get install libnginx-mod-stream"
    return [
        Kind("direct", _direct),
        *(Kind(f"proxyctl, {count}", _ours(count)) for count in (1, 2)),
        *(Kind(f"HAProxy TCP, {count}", _haproxy(count), no_haproxy) for count in (1, 2)),
        *(Kind(f"nginx stream, {count}", _nginx_stream(count), no_stream) for count in (1, 2)),
    ]


@contextmanager
def backend(folder: Path) -> Iterator[int]:
    """An nginx with one small and one large (sparse) file; yields its port."""
    root = folder / "www"
    root.mkdir()
    (root / "small").write_bytes(_SMALL)
    with (root / "bulk").open("wb") as file:
        file.truncate(_BULK_BYTES)
    folder.chmod(0o755)  # its workers run as another user
    port = free_port()
    config = _nginx_head(folder, 1, stream=False) + (
        f"http {{ access_log off; sendfile on; keepalive_requests 1000000000; {_temporary(folder)}"
        f"server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; }} }}\n"
    )
    with _nginx(folder, config, port):
        yield port


@contextmanager
def _direct(_folder: Path, backend_port: int) -> Iterator[Peer]:
    yield Peer("direct", backend_port, frozenset())


def _ours(workers: int) -> Callable[[Path, int], AbstractContextManager[Peer]]:
    @contextmanager
    def start(folder: Path, backend_port: int) -> Iterator[Peer]:
        port = free_port()
        with proxy(folder, port, backend_port, workers=workers, health="tcp") as (pid, _):
            yield Peer(f"proxyctl, {workers}", port, frozenset(family(pid)))

    return start


def _haproxy(threads: int) -> Callable[[Path, int], AbstractContextManager[Peer]]:
    @contextmanager
    def start(folder: Path, backend_port: int) -> Iterator[Peer]:
        port = free_port()
        config = folder / "haproxy.cfg"
        config.write_text(
            f"global\n  nbthread {threads}\n  maxconn 4096\n"
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
            f"listen web\n  bind 127.0.0.1:{port}\n  server backend 127.0.0.1:{backend_port}\n"
        )
        command = [find("haproxy") or "haproxy", "-db", "-f", str(config)]
        with running(command, log=folder / "log", ready=lambda: answers(port)) as pid:
            yield Peer(f"HAProxy TCP, {threads}", port, frozenset(family(pid)))

    return start


def _nginx_stream(workers: int) -> Callable[[Path, int], AbstractContextManager[Peer]]:
    @contextmanager
    def start(folder: Path, backend_port: int) -> Iterator[Peer]:
        port = free_port()
        config = _nginx_head(folder, workers, stream=True) + (
            f"stream {{ server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass 127.0.0.1:{backend_port}; }} }}\n"
        )
        with _nginx(folder, config, port) as pid:
            yield Peer(f"nginx stream, {workers}", port, frozenset(family(pid)))

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
        "worker_rlimit_nofile 8192; events { worker_connections 4096; }\n"
    )


def _temporary(folder: Path) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds)
