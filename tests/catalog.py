"""Which series the proxy really has, for tests of what refers to them by name."""

from __future__ import annotations

import re

from proxy.metrics import Metrics, Sample

_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


# What dashboards and alerts of users rely on; a name that goes is a breaking change.
CONTRACT = [
    "proxy_connections_total",
    "proxy_connections_active",
    "proxy_connections_refused_total",
    "proxy_connection_duration_seconds",
    "proxy_received_bytes_total",
    "proxy_sent_bytes_total",
    "proxy_backend_connect_seconds",
    "proxy_backend_connect_errors_total",
    "proxy_backend_up",
    "proxy_backend_restarts_total",
    "proxy_health_checks_total",
    "proxy_swaps_total",
    "proxy_swap_phase_seconds",
    "proxy_swap_started_timestamp_seconds",
    "proxy_swap_ended_timestamp_seconds",
    "proxy_active_generation",
    "proxy_datapath",
    "proxy_steered_connections_total",
    "proxy_steer_fallen_through_total",
    "proxy_drain_active_connections",
    "proxy_drain_deadline_timestamp_seconds",
    "proxy_drain_seconds",
    "proxy_drain_completed_total",
    "proxy_drain_forced_connections_total",
    "proxy_http_requests_total",
    "proxy_http_requests_in_flight",
    "proxy_http_request_duration_seconds",
    "proxy_http_migrated_connections_total",
    "proxy_http_retries_total",
    "proxy_worker_up",
    "proxy_worker_connections",
    "proxy_worker_restarts_total",
    "proxy_trouble",
    "proxy_upgrades_total",
    "proxy_control_starts_total",
    "proxy_handover_connections_total",
    "proxy_handover_pause_seconds",
    "proxy_build_info",
]


def series_names() -> set[str]:
    """Every name that can stand in a query."""
    page, _ = Metrics(lambda: Sample(services=(), workers={}, worker_restarts=0)).render(openmetrics=False)
    kinds = re.findall(r"^# TYPE (\w+) (\w+)$", page.decode(), re.MULTILINE)
    return {name + suffix for name, kind in kinds for suffix in _SUFFIXES.get(kind, ("",))}


def named_in(text: str) -> set[str]:
    """Every name in a text that looks like one of the proxy's series."""
    return set(re.findall(r"\bproxy_[a-z_]+", text))
