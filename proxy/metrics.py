"""Every metric, declared once, and how it is put together when it is scraped.

What control does itself (swaps, drains, checks) is counted here as it happens. What the workers count comes in a
`ServiceSample` for each scrape.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector

from proxy import __version__, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_PHASE_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_GENERATION = ("service", "version", "generation")
# These are there from the start, so that a rate sees the first error too.
_USUAL_CODES = dict.fromkeys(("200", "500", "502", "503", "504"), 0)

# The library has no types for these.
_render_text: Callable[[CollectorRegistry], bytes] = exposition.generate_latest
_render_openmetrics: Callable[[CollectorRegistry], bytes] = openmetrics_exposition.generate_latest
_disable_created_metrics: Callable[[], None] = disable_created_metrics

# A `_created` series beside each counter doubles the page, and promtool warns of them.
_disable_created_metrics()


@dataclass(frozen=True)
class ReplicaSample:
    version: str
    generation: int
    replica: int
    up: bool


@dataclass(frozen=True)
class DrainSample:
    """`deadline` is a Unix time."""

    version: str
    generation: int
    connections: int
    deadline: float


@dataclass(frozen=True)
class ServiceSample:
    """A service at the moment of a scrape; `active` is the number of the active generation, 0 without one.

    With `protocol` "http" there are series of requests too.
    """

    name: str
    active: int
    counts: wire.Counts
    replicas: Sequence[ReplicaSample] = field(default=())
    drains: Sequence[DrainSample] = field(default=())
    protocol: str = "tcp"


@dataclass(frozen=True)
class Sample:
    """The whole proxy at the moment of a scrape; `workers` says which indexes are up."""

    services: Sequence[ServiceSample]
    workers: dict[int, bool]
    worker_restarts: int


class Metrics:
    """Counts what control does, and renders everything. `source` is asked at each rendering."""

    def __init__(self, source: Callable[[], Sample] | None = None) -> None:
        self.source = source
        self._versions: dict[tuple[str, int], str] = {}
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._restarts = Counter(
            "proxy_backend_restarts", "Backend processes started again.", ("service", "version"), registry=registry
        )
        self._checks = Counter(
            "proxy_health_checks",
            "Health checks, by result.",
            ("service", "version", "result"),
            registry=registry,
        )
        self._swaps = Counter(
            "proxy_swaps", "Swaps, rollbacks and restarts, by result.", ("service", "result"), registry=registry
        )
        self._phases = Histogram(
            "proxy_swap_phase_seconds",
            "How long each phase of a swap took.",
            ("service", "phase"),
            buckets=_PHASE_BUCKETS,
            registry=registry,
        )
        self._drains = Histogram(
            "proxy_drain_seconds",
            "How long drains took.",
            ("service",),
            buckets=_PHASE_BUCKETS,
            registry=registry,
        )
        self._drain_outcomes = Counter(
            "proxy_drain_completed",
            "Drains that ended: drained before the deadline, or forced at it.",
            ("service", "outcome"),
            registry=registry,
        )
        self._forced = Counter(
            "proxy_drain_forced_connections",
            "Connections closed because the drain deadline had come.",
            ("service",),
            registry=registry,
        )
        registry.register(_Collector(self))

    # What happens.

    def service(self, name: str) -> None:
        """Begin a service's series at zero, so that a rate sees the first event too."""
        for result in ("swapped", "failed", "rolled_back"):
            self._swaps.labels(name, result)
        for outcome in ("drained", "forced"):
            self._drain_outcomes.labels(name, outcome)
        self._forced.labels(name)
        self._drains.labels(name)

    def started(self, service: str, version: str, generation: int) -> None:
        self._versions[service, generation] = version
        self._restarts.labels(service, version)
        for result in ("ok", "failed"):
            self._checks.labels(service, version, result)

    def forget(self, service: str, version: str, generation: int) -> None:
        """Drop a generation's series, and those of its version when it was the last generation of it."""
        self._versions.pop((service, generation), None)
        if (service, version) in {(name, of) for (name, _), of in self._versions.items()}:
            return
        self._restarts.remove_by_labels({"service": service, "version": version})
        self._checks.remove_by_labels({"service": service, "version": version})

    def forget_service(self, service: str) -> None:
        for key in [key for key in self._versions if key[0] == service]:
            del self._versions[key]
        metrics = (
            self._restarts, self._checks, self._swaps, self._phases, self._drains, self._drain_outcomes, self._forced,
        )  # fmt: skip
        for metric in metrics:
            metric.remove_by_labels({"service": service})

    def restarted(self, service: str, version: str) -> None:
        self._restarts.labels(service, version).inc()

    def checked(self, service: str, version: str, result: str) -> None:
        self._checks.labels(service, version, result).inc()

    def swapped(self, service: str, result: str) -> None:
        self._swaps.labels(service, result).inc()

    def phase(self, service: str, phase: str, seconds: float) -> None:
        self._phases.labels(service, phase).observe(seconds)

    def drained(self, service: str, outcome: str, seconds: float, forced: int) -> None:
        self._drains.labels(service).observe(seconds)
        self._drain_outcomes.labels(service, outcome).inc()
        self._forced.labels(service).inc(forced)

    # What is shown.

    def version_of(self, service: str, generation: int) -> str:
        return self._versions.get((service, generation), "")

    def render(self, *, openmetrics: bool) -> tuple[bytes, str]:
        """The page in the OpenMetrics or the Prometheus text form, and its content type."""
        if openmetrics:
            return _render_openmetrics(self._registry), openmetrics_exposition.CONTENT_TYPE_LATEST
        return _render_text(self._registry), exposition.CONTENT_TYPE_LATEST


class _Collector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        if self._metrics.source is None:
            return
        sample = self._metrics.source()
        yield _build_info()
        yield from _worker_metrics(sample)
        yield from _state_metrics(sample.services)
        yield from self._traffic_metrics(sample.services)
        yield from self._request_metrics([service for service in sample.services if service.protocol == "http"])

    def _traffic_metrics(self, services: Sequence[ServiceSample]) -> Iterable[Metric]:
        total = CounterMetricFamily("proxy_connections", "Connections given to a backend.", labels=_GENERATION)
        active = GaugeMetricFamily("proxy_connections_active", "Connections open now.", labels=_GENERATION)
        duration = HistogramMetricFamily(
            "proxy_connection_duration_seconds", "How long connections lasted.", labels=_GENERATION
        )
        received = CounterMetricFamily(
            "proxy_received_bytes", "Bytes received, by the side they came from.", labels=(*_GENERATION, "side")
        )
        sent = CounterMetricFamily(
            "proxy_sent_bytes", "Bytes sent, by the side they went to.", labels=(*_GENERATION, "side")
        )
        connect = HistogramMetricFamily(
            "proxy_backend_connect_seconds", "How long connecting to a backend took.", labels=_GENERATION
        )
        errors = CounterMetricFamily(
            "proxy_backend_connect_errors", "Connects to a backend that failed.", labels=(*_GENERATION, "reason")
        )
        refused = CounterMetricFamily(
            "proxy_connections_refused", "Client connections that got no backend.", labels=("service", "reason")
        )
        for service in services:
            for reason, count in {"no_backend": 0, **service.counts.refused}.items():
                refused.add_metric((service.name, reason), count)
            for number, counts in service.counts.generations.items():
                if not number:  # what a service has that is starting or being removed
                    continue
                labels = (service.name, self._metrics.version_of(service.name, number), str(number))
                total.add_metric(labels, counts.connections)
                active.add_metric(labels, counts.active)
                received.add_metric((*labels, "client"), counts.received_client)
                received.add_metric((*labels, "backend"), counts.received_backend)
                sent.add_metric((*labels, "client"), counts.sent_client)
                sent.add_metric((*labels, "backend"), counts.sent_backend)
                for reason, count in counts.connect_errors.items():
                    errors.add_metric((*labels, reason), count)
                duration.add_metric(labels, *_buckets(counts.duration, wire.DURATION_BUCKETS))
                connect.add_metric(labels, *_buckets(counts.connect, wire.CONNECT_BUCKETS))
        return (total, active, refused, duration, received, sent, connect, errors)

    def _request_metrics(self, services: Sequence[ServiceSample]) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "proxy_http_requests",
            "Requests answered, by status code; those without a version by the proxy, before a backend had them.",
            labels=(*_GENERATION, "code"),
        )
        in_flight = GaugeMetricFamily(
            "proxy_http_requests_in_flight", "Requests that a backend has and has not answered.", labels=_GENERATION
        )
        duration = HistogramMetricFamily(
            "proxy_http_request_duration_seconds",
            "How long requests took until they were answered.",
            labels=_GENERATION,
        )
        migrated = CounterMetricFamily(
            "proxy_http_migrated_connections",
            "Client connections that left a generation, open, because another one had become the active one.",
            labels=("service",),
        )
        retries = CounterMetricFamily(
            "proxy_http_retries", "Requests sent again, on a fresh connection.", labels=("service",)
        )
        for service in services:
            migrated.add_metric((service.name,), service.counts.migrated)
            retries.add_metric((service.name,), service.counts.retried)
            for code, count in service.counts.answered.items():
                requests.add_metric((service.name, "", "", code), count)
            for number, counts in service.counts.generations.items():
                if not number:
                    continue
                labels = (service.name, self._metrics.version_of(service.name, number), str(number))
                in_flight.add_metric(labels, counts.in_flight)
                for code, count in {**_USUAL_CODES, **counts.requests}.items():
                    requests.add_metric((*labels, code), count)
                duration.add_metric(labels, *_buckets(counts.request_duration, wire.REQUEST_BUCKETS))
        return (requests, in_flight, duration, migrated, retries)


def _buckets(histogram: wire.Histogram, bounds: Sequence[float]) -> tuple[list[tuple[str, float]], float]:
    """Turn counts per bucket into Prometheus' cumulative ones."""
    names = [*(str(bound) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(histogram.counts), strict=True)), histogram.sum


def _build_info() -> Metric:
    info = GaugeMetricFamily(
        "proxy_build_info", "The release that runs; the value is always 1.", labels=("version", "python")
    )
    info.add_metric((__version__, platform.python_version()), 1)
    return info


def _worker_metrics(sample: Sample) -> Iterable[Metric]:
    up = GaugeMetricFamily("proxy_worker_up", "Whether a worker process is up.", labels=("worker",))
    for index, alive in sample.workers.items():
        up.add_metric((str(index),), alive)
    yield up
    yield CounterMetricFamily(
        "proxy_worker_restarts", "Worker processes that died and were replaced.", value=sample.worker_restarts
    )


def _state_metrics(services: Sequence[ServiceSample]) -> Iterable[Metric]:
    up = GaugeMetricFamily(
        "proxy_backend_up", "Whether a replica is healthy and in rotation.", labels=(*_GENERATION, "replica")
    )
    active = GaugeMetricFamily(
        "proxy_active_generation", "The generation that new connections go to; 0 without one.", labels=("service",)
    )
    draining = GaugeMetricFamily(
        "proxy_drain_active_connections", "Connections that a draining generation still has.", labels=_GENERATION
    )
    deadline = GaugeMetricFamily(
        "proxy_drain_deadline_timestamp_seconds", "When a drain is cut short, in Unix time.", labels=_GENERATION
    )
    for service in services:
        active.add_metric((service.name,), service.active)
        for replica in service.replicas:
            place = (service.name, replica.version, str(replica.generation), str(replica.replica))
            up.add_metric(place, replica.up)
        for drain in service.drains:
            labels = (service.name, drain.version, str(drain.generation))
            draining.add_metric(labels, drain.connections)
            deadline.add_metric(labels, drain.deadline)
    return (up, active, draining, deadline)
