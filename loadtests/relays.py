"""Who is measured: the same backends, reached directly, through or past this proxy, its peers and the naive form."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from loadtests import nginx, steered
from loadtests.envoy import envoy
from loadtests.haproxy import haproxy
from loadtests.model import DIRECT, HTTP, TCP, Relay, Running
from loadtests.naive import naive
from loadtests.proxyctl import proxyctl
from loadtests.started import names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadtests.model import Backends


def relays() -> list[Relay]:
    """All that can be compared, in the order of the table: first with one worker each, then with two.

    `missing` says why one cannot be started here. With two workers ", 2" is in the name.
    """
    return [
        Relay(DIRECT, DIRECT, TCP, 1, _direct),
        steered.steer(),
        steered.inherit(),
        naive(),
        *_with(1),
        *(replace(relay, name=f"{relay.name}, 2") for relay in _with(2)),
    ]


def _with(workers: int) -> list[Relay]:
    return [
        proxyctl(TCP, workers),
        haproxy(TCP, workers),
        nginx.stream(workers),
        envoy(TCP, workers),
        proxyctl(HTTP, workers),
        haproxy(HTTP, workers),
        nginx.http(workers),
        envoy(HTTP, workers),
    ]


@contextmanager
def _direct(_folder: Path, backends: Backends) -> Iterator[Running]:
    yield Running({port: port for port in names(backends)}, frozenset, frozenset)
