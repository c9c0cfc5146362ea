"""What a sample becomes on the page that is scraped."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from proxy import __version__, wire
from proxy.metrics.tally import buckets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from proxy.metrics.sample import Sample, ServiceSample

# The version of a service's generation.
VersionOf: TypeAlias = "Callable[[str, int], str]"

_GENERATION = ("service", "version", "generation")
# These are there from the start, so that a rate sees the first one too.
_USUAL_CODES = dict.fromkeys(("200", "500", "502", "503", "504"), 0)
_REASONS = {"no_backend": 0, "internal": 0}


def families(sample: Sample, version_of: VersionOf) -> Iterable[Metric]:
    yield _build_info()
    yield from _worker_metrics(sample)
    yield from _state_metrics(sample.services)
    yield from _swap_metrics(sample.services)
    yield from _traffic_metrics(sample.services, version_of)
    yield _datapath(sample.services)
    yield from _steering_metrics(
        [service for service in sample.services if service.datapath_configured == "steer"], version_of
    )
    yield from _request_metrics([service for service in sample.services if service.protocol == "http"], version_of)
    yield from _health_metrics(sample)


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
    connections = GaugeMetricFamily(
        "proxy_worker_connections", "Connections that a worker process has open.", labels=("worker",)
    )
    for index, count in sample.worker_connections.items():
        connections.add_metric((str(index),), count)
    yield connections
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


def _swap_metrics(services: Sequence[ServiceSample]) -> Iterable[Metric]:
    """Moments, where counts would tell no more than between which two scrapes it was."""
    started = GaugeMetricFamily(
        "proxy_swap_started_timestamp_seconds",
        "When the last swap, rollback or restart began, in Unix time.",
        labels=("service",),
    )
    ended = GaugeMetricFamily(
        "proxy_swap_ended_timestamp_seconds",
        "When the last swap, rollback or restart with a result ended, in Unix time.",
        labels=("service", "result"),
    )
    for service in services:
        if service.swap_started is not None:
            started.add_metric((service.name,), service.swap_started)
        for result, moment in service.swaps_ended.items():
            ended.add_metric((service.name, result), moment)
    return (started, ended)


def _traffic_metrics(services: Sequence[ServiceSample], version_of: VersionOf) -> Iterable[Metric]:
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
        for reason, count in {**_REASONS, **service.counts.refused}.items():
            refused.add_metric((service.name, reason), count)
        for number, counts in service.counts.generations.items():
            if not number:  # what a service has that is starting or being removed
                continue
            labels = (service.name, version_of(service.name, number), str(number))
            total.add_metric(labels, counts.connections)
            active.add_metric(labels, counts.active)
            received.add_metric((*labels, "client"), counts.received_client)
            received.add_metric((*labels, "backend"), counts.received_backend)
            sent.add_metric((*labels, "client"), counts.sent_client)
            sent.add_metric((*labels, "backend"), counts.sent_backend)
            for reason, count in counts.connect_errors.items():
                errors.add_metric((*labels, reason), count)
            duration.add_metric(labels, *buckets(counts.duration, wire.DURATION_BUCKETS))
            connect.add_metric(labels, *buckets(counts.connect, wire.CONNECT_BUCKETS))
    return (total, active, refused, duration, received, sent, connect, errors)


def _datapath(services: Sequence[ServiceSample]) -> Metric:
    """Both in one series, so that an alert for "steer fell back" is a selector."""
    paths = GaugeMetricFamily(
        "proxy_datapath",
        "The data path that is configured, and the one in effect; the value is always 1.",
        labels=("service", "configured", "effective"),
    )
    for service in services:
        paths.add_metric((service.name, service.datapath_configured, service.datapath), 1)
    return paths


def _steering_metrics(services: Sequence[ServiceSample], version_of: VersionOf) -> Iterable[Metric]:
    steered = CounterMetricFamily(
        "proxy_steered_connections", "Connections that the kernel handed to a backend.", labels=_GENERATION
    )
    fallen = CounterMetricFamily(
        "proxy_steer_fallen_through",
        "Connections that the kernel left to a worker, because the generation had no live socket.",
        labels=_GENERATION,
    )
    for service in services:
        for number, counts in service.counts.generations.items():
            if not number:
                continue
            labels = (service.name, version_of(service.name, number), str(number))
            steered.add_metric(labels, counts.steered)
            fallen.add_metric(labels, counts.fallen_through)
    return (steered, fallen)


def _request_metrics(services: Sequence[ServiceSample], version_of: VersionOf) -> Iterable[Metric]:
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
            labels = (service.name, version_of(service.name, number), str(number))
            in_flight.add_metric(labels, counts.in_flight)
            for code, count in {**_USUAL_CODES, **counts.requests}.items():
                requests.add_metric((*labels, code), count)
            duration.add_metric(labels, *buckets(counts.request_duration, wire.REQUEST_BUCKETS))
    return (requests, in_flight, duration, migrated, retries)


def _health_metrics(sample: Sample) -> Iterable[Metric]:
    trouble = GaugeMetricFamily(
        "proxy_trouble", "Whether the proxy itself has trouble of a kind; traffic goes on.", labels=("kind",)
    )
    for kind, is_there in sample.trouble.items():
        trouble.add_metric((kind,), is_there)
    pause = GaugeMetricFamily(
        "proxy_handover_pause_seconds",
        "How long the connection that waited longest was not read in the last handover between workers.",
        value=sample.handover_pause,
    )
    return (trouble, pause)
