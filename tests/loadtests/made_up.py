"""Relays, scenarios and results that nobody measured, for the parts of the load tests that only think."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from loadtests.model import HTTP, TCP, Backends, Column, Relay, Running, Sample, Scenario
from loadtests.results import Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COLUMNS = (
    Column("rate", "requests/s", "more"),
    Column("cpu", "CPU µs/request", "less", 1),
    Column("p99", "p99 µs", "less"),
    Column("errors", "errors", "less"),
)
BACKENDS = Backends(web=1, bulk=2, echo=3)


def relay(product: str, protocol: str = TCP, workers: int = 1, **more: Any) -> Relay:
    """One that comes up at once and does nothing."""

    @contextmanager
    def start(_folder: Path, _backends: Backends) -> Iterator[Running]:
        yield Running({1: 1}, frozenset, frozenset)

    name = f"{product} {protocol.upper()}" + (f", {workers}" if workers > 1 else "")
    fields: dict[str, Any] = {"name": name, "start": start} | more
    return Relay(**fields, product=product, protocol=protocol, workers=workers)


def scenario(name: str, run: Callable[..., Sample] = lambda *_: {"rate": 1.0}, **more: Any) -> Scenario:
    fields: dict[str, Any] = {"title": f"what {name} is", "columns": COLUMNS} | more
    return Scenario(**fields, name=name, run=run)


EVERY_TCP = [relay("proxyctl"), relay("HAProxy"), relay("nginx"), relay("Envoy"), relay("naive")]
EVERY_HTTP = [relay("proxyctl", HTTP), relay("HAProxy", HTTP), relay("nginx", HTTP), relay("Envoy", HTTP)]


def measured(values: dict[str, dict[str, list[Sample]]], relays: list[Relay] | None = None) -> Measured:
    """By scenario and relay: a sample for each round."""
    names = [scenario(name) for name in values]
    result = Measured([*EVERY_TCP, *EVERY_HTTP] if relays is None else relays, names)
    for name, by_relay in values.items():
        for which, samples in by_relay.items():
            for number, sample in enumerate(samples, 1):
                result.add(name, which, number, sample)
    return result
