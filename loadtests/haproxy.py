"""HAProxy, in master-worker mode, as a relay of TCP and of HTTP."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loadtests.machine import answers, find, running, version_of
from loadtests.model import HTTP, Relay
from loadtests.started import most_connections, names, public_ports, reloads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from loadtests.model import Backends, Running

_DEFAULTS = (
    "defaults\n  backlog 4096\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  timeout tunnel 1h\n"
)
# Bulk without copies, where it finds that worth it. By default as many pipes as could be needed are allowed for, which
# are more descriptors than there may be.
_SPLICE, _PIPES = "  option splice-auto\n", "  maxpipes 64\n"
_TCP = "  mode tcp\n"
_HTTP = "  mode http\n  option http-keep-alive\n  http-reuse safe\n  timeout http-keep-alive 1h\n"
_FORWARDED = (
    "  option forwardfor\n  http-request set-header X-Forwarded-Proto http\n"
    "  http-request set-header X-Forwarded-Host %[req.hdr(host)]\n"
)


def haproxy(protocol: str, threads: int) -> Relay:
    name = f"HAProxy {protocol.upper()}"
    return Relay(name, "HAProxy", protocol, threads, _start(protocol, threads), version, missing())


def missing() -> str:
    return "" if find("haproxy") else "haproxy is not installed: apt-get install haproxy"


def version() -> str:
    """Like "HAProxy 2.6.12": the line has a date and an address after it."""
    return " ".join(version_of([find("haproxy") or "haproxy", "-v"]).replace("version ", "").split()[:2])


def _start(protocol: str, threads: int) -> Callable[[Path, Backends], AbstractContextManager[Running]]:
    @contextmanager
    def start(folder: Path, backends: Backends) -> Iterator[Running]:
        ports = public_ports(backends)
        config, log = folder / "haproxy.cfg", folder / "log"
        config.write_text(
            _head(protocol, threads)
            + "".join(
                f"listen {name}\n  bind 127.0.0.1:{ports[port]}\n{_FORWARDED if protocol == HTTP else ''}"
                f"  server backend 127.0.0.1:{port}\n"
                for port, name in names(backends).items()
            )
        )
        command = [find("haproxy") or "haproxy", "-W", "-f", str(config)]
        with running(command, log=log, ready=lambda: answers(ports[backends.web])) as pid:
            yield reloads(pid, signal.SIGUSR2, ports, log)

    return start


def _head(protocol: str, threads: int) -> str:
    limits = f"global\n  nbthread {threads}\n  maxconn {most_connections()}\n{_PIPES}"
    return limits + _DEFAULTS + _SPLICE + (_HTTP if protocol == HTTP else _TCP)
