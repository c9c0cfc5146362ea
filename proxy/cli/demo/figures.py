"""What the proxy itself counted of all this, as its metrics have it."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

MIGRATED = "proxy_http_migrated_connections_total"
RETRIES = "proxy_http_retries_total"


class Figures(NamedTuple):
    """How often a connection left a version for another one, and requests that the proxy sent a second time."""

    migrated: int
    retries: int


def read(page: str) -> Figures:
    """From a page of metrics in Prometheus' text format; what is not in it is 0."""
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    total = {name: sum(each.value for each in samples if each.name == name) for name in (MIGRATED, RETRIES)}
    return Figures(int(total[MIGRATED]), int(total[RETRIES]))
