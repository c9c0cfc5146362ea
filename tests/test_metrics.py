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
    busy.in_flight = 2
    busy.requests |= {"200": 7, "502": 1}
    busy.request_duration.counts[0] += 8
    busy.request_duration.sum = 0.004
    service = ServiceSample(
        name="web",
        active=2,
        counts=wire.Counts("web", 0, {"no_backend": 4}, {1: busy}, answered={"400": 5}, migrated=3, retried=1),
        protocol="http",
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


def test_requests_are_told_apart_by_who_answered_and_how(metrics):
    found = values(metrics)
    web, labels = (("service", "web"),), (("generation", "1"), ("service", "web"), ("version", "v1"))
    assert found["proxy_http_requests_total", (("code", "200"), *labels)] == 7
    assert found["proxy_http_requests_total", (("code", "502"), *labels)] == 1
    assert found["proxy_http_requests_total", (("code", "400"), ("generation", ""), *web, ("version", ""))] == 5
    assert found["proxy_http_requests_in_flight", labels] == 2
    assert found["proxy_http_request_duration_seconds_sum", labels] == 0.004
    assert found["proxy_http_request_duration_seconds_bucket", (labels[0], ("le", "0.001"), *labels[1:])] == 8
    assert found["proxy_http_migrated_connections_total", web] == 3
    assert found["proxy_http_retries_total", web] == 1


def test_a_service_whose_requests_are_not_understood_has_no_series_of_them(metrics):
    tcp = ServiceSample("web", 1, wire.Counts("web", 0, {}, {1: wire.GenerationCounts(connections=3)}))
    metrics.source = lambda: Sample([tcp], {}, 0)
    assert not [name for name, _ in values(metrics) if name.startswith("proxy_http_")]


def test_a_rate_sees_the_first_connection_that_moves_and_the_first_request_that_is_sent_again():
    http = ServiceSample("web", 0, wire.Counts("web", 0, {}, {}), protocol="http")
    found = values(Metrics(lambda: Sample([http], {}, 0)))
    assert found["proxy_http_migrated_connections_total", (("service", "web"),)] == 0
    assert found["proxy_http_retries_total", (("service", "web"),)] == 0


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
