"""The page that Prometheus scrapes, from samples made by hand."""

from __future__ import annotations

import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy import wire
from proxy.metrics import DrainSample, Metrics, ReplicaSample, Sample, ServiceSample
from tests.catalog import CONTRACT
from tests.tools import need


def sample() -> Sample:
    busy = wire.GenerationCounts(active=2, connections=9, received_client=100, sent_client=90)
    busy.connect_errors["refused"] = 1
    busy.duration.counts[0] += 3
    busy.duration.counts[-1] += 1
    busy.duration.sum = 5000.0
    service = ServiceSample(
        name="web",
        active=2,
        counts=wire.Counts("web", 0, {"no_backend": 4}, {1: busy}),
        replicas=[ReplicaSample("v2", 2, 0, up=True)],
        drains=[DrainSample("v1", 1, 2, 1_800_000_000.0)],
    )
    return Sample(services=[service], workers={0: True, 1: False}, worker_restarts=3)


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics(sample)
    metrics.service("web")
    metrics.started("web", "v1", 1)
    metrics.checked("web", "v1", "ok")
    metrics.phase("web", "switch", 0.004)
    metrics.swapped("web", "swapped")
    metrics.drained("web", "forced", 30.0, 2)
    return metrics


def values(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    page = metrics.render(openmetrics=False)[0].decode()
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in parse_text(page)
        for each in family.samples
    }


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_metric_that_dashboards_rely_on_is_there(metrics, openmetrics):
    page, kind = metrics.render(openmetrics=openmetrics)
    assert ("openmetrics" in kind) == openmetrics
    parse = parse_openmetrics if openmetrics else parse_text
    found = {each.name for family in parse(page.decode()) for each in family.samples}
    missing = [name for name in CONTRACT if not any(each == name or each.startswith(f"{name}_") for each in found)]
    assert not missing


def test_values_carry_the_labels_that_tell_versions_apart(metrics):
    found = values(metrics)
    labels = (("generation", "1"), ("service", "web"), ("version", "v1"))
    assert found["proxy_connections_total", labels] == 9
    assert found["proxy_drain_active_connections", labels] == 2
    assert found["proxy_connections_refused_total", (("reason", "no_backend"), ("service", "web"))] == 4
    assert found["proxy_connection_duration_seconds_bucket", (*labels[:1], ("le", "+Inf"), *labels[1:])] == 4
    assert found["proxy_drain_forced_connections_total", (("service", "web"),)] == 2


def test_a_rate_sees_the_very_first_swap_drain_and_refusal():
    metrics = Metrics(lambda: Sample([ServiceSample("web", 0, wire.Counts("web", 0, {}, {}))], {}, 0))
    metrics.service("web")
    found = values(metrics)
    for result in ("swapped", "failed", "rolled_back"):
        assert found["proxy_swaps_total", (("result", result), ("service", "web"))] == 0
    assert found["proxy_drain_forced_connections_total", (("service", "web"),)] == 0
    assert found["proxy_connections_refused_total", (("reason", "no_backend"), ("service", "web"))] == 0


def test_label_sets_stay_bounded_when_generations_go(metrics):
    metrics.started("web", "v1", 7)
    metrics.forget("web", "v1", 1)
    assert "proxy_health_checks_total" in {name for name, _ in values(metrics)}
    metrics.forget("web", "v1", 7)
    assert "proxy_health_checks_total" not in {name for name, _ in values(metrics)}


def test_a_removed_service_leaves_no_series(metrics):
    metrics.source = lambda: Sample([], {}, 0)
    metrics.forget_service("web")
    assert not [key for key in values(metrics) if ("service", "web") in key[1]]


def test_promtool_has_nothing_to_say_against_the_page(metrics):
    promtool = need("promtool", package="prometheus")
    page = metrics.render(openmetrics=False)[0]
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
