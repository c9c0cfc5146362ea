"""The page that Prometheus scrapes, from samples made by hand."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
    busy.steered, busy.fallen_through = 7, 1
    service = ServiceSample(
        name="web",
        active=2,
        counts=wire.Counts("web", 0, {"no_backend": 4}, {1: busy}, answered={"400": 5}, migrated=3, retried=1),
        protocol="http",
        datapath="relay",
        datapath_configured="steer",
        replicas=[ReplicaSample("v2", 2, 0, up=True)],
        drains=[DrainSample("v1", 1, 2, 1_800_000_000.0)],
        swap_started=1_799_999_969.5,
        swaps_ended={"swapped": 1_799_990_000.25, "failed": 1_799_980_000.0},
    )
    return Sample(services=[service], workers={0: True, 1: False}, worker_restarts=3, worker_connections={0: 2, 1: 0})


@pytest.fixture
def metrics() -> Metrics:
    return eventful(Metrics(sample))


def eventful(metrics: Metrics) -> Metrics:
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
def test_every_metric_that_dashboards_rely_on_is_there(openmetrics):
    metrics = eventful(Metrics(lambda: replace(sample(), trouble={"state": False}, handover_pause=0.025)))
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


def test_a_dashboard_can_mark_when_a_swap_began_and_how_and_when_it_ended(metrics):
    found = values(metrics)
    web = ("service", "web")
    assert found["proxy_swap_started_timestamp_seconds", (web,)] == 1_799_999_969.5
    assert found["proxy_swap_ended_timestamp_seconds", (("result", "swapped"), web)] == 1_799_990_000.25
    assert found["proxy_swap_ended_timestamp_seconds", (("result", "failed"), web)] == 1_799_980_000.0


def test_a_service_that_was_never_swapped_claims_no_time_of_a_swap():
    metrics = Metrics(lambda: Sample([ServiceSample("web", 1, wire.Counts("web", 0, {}, {}))], {}, 0))
    assert not [name for name, _ in values(metrics) if name.startswith("proxy_swap_started")]
    assert not [name for name, _ in values(metrics) if name.startswith("proxy_swap_ended")]


def test_workers_that_share_their_work_badly_can_be_seen(metrics):
    found = values(metrics)
    assert found["proxy_worker_connections", (("worker", "0"),)] == 2
    assert found["proxy_worker_connections", (("worker", "1"),)] == 0


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


def test_a_data_path_that_fell_back_can_be_selected_for_an_alert(metrics):
    fell_back = (("configured", "steer"), ("effective", "relay"), ("service", "web"))
    assert values(metrics)["proxy_datapath", fell_back] == 1
    metrics.source = lambda: Sample([replace(sample().services[0], datapath="steer")], {}, 0)
    found = values(metrics)
    assert found["proxy_datapath", (("configured", "steer"), ("effective", "steer"), ("service", "web"))] == 1
    assert ("proxy_datapath", fell_back) not in found


def test_what_is_steered_and_what_falls_through_are_counted_apart(metrics):
    labels = (("generation", "1"), ("service", "web"), ("version", "v1"))
    found = values(metrics)
    assert found["proxy_steered_connections_total", labels] == 7
    assert found["proxy_steer_fallen_through_total", labels] == 1


def test_a_service_that_is_not_to_be_steered_has_no_series_of_it(metrics):
    counts = wire.Counts("web", 0, {}, {1: wire.GenerationCounts(connections=3)})
    for path in ("relay", "inherit"):
        service = ServiceSample("web", 1, counts, datapath=path, datapath_configured=path)
        metrics.source = lambda service=service: Sample([service], {}, 0)
        assert not [name for name, _ in values(metrics) if name.startswith("proxy_steer")]


def test_a_rate_sees_the_first_connection_that_is_steered():
    counts = wire.Counts("web", 0, {}, {0: wire.GenerationCounts(), 1: wire.GenerationCounts()})
    steered = ServiceSample("web", 1, counts, datapath="steer", datapath_configured="steer")
    found = values(Metrics(lambda: Sample([steered], {}, 0)))
    series = [(dict(labels), value) for (name, labels), value in found.items() if name.startswith("proxy_steer")]
    assert series == [({"service": "web", "version": "", "generation": "1"}, 0)] * 2


def test_a_graph_sees_the_phases_of_the_very_first_swap():
    metrics = Metrics()
    metrics.service("web")
    zero = values(metrics)
    for phase in ("start", "health", "switch", "drain", "stop"):
        assert zero["proxy_swap_phase_seconds_sum", (("phase", phase), ("service", "web"))] == 0


def test_an_alert_sees_the_first_client_that_is_turned_away():
    found = values(Metrics(lambda: Sample([ServiceSample("web", 0, wire.Counts("web", 0, {}, {}))], {}, 0)))
    for reason in ("no_backend", "internal"):
        assert found["proxy_connections_refused_total", (("reason", reason), ("service", "web"))] == 0


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


# The page as a whole: what stands on it is what queries and dashboards of users are written against.

PAGE = Path(__file__).with_name("metrics_page.txt")


def busy_day(metrics: Metrics) -> Metrics:
    """Something of everything, with values on both sides of each bucket's bound."""
    eventful(metrics)
    for service in ("web", 'odd "name"\\\n'):
        metrics.service(service)
        metrics.started(service, "v2", 2)
        metrics.started(service, "v1", 3)
        metrics.restarted(service, "v2")
        metrics.checked(service, "v2", "failed")
        for seconds in (0.0, 0.005, 0.0050001, 0.1, 299.9, 300.0, 300.1):
            metrics.phase(service, "drain", seconds)
            metrics.drained(service, "drained", seconds, 0)
        metrics.swapped(service, "rolled_back")
    metrics.forget("web", "v2", 2)
    metrics.service("gone")
    metrics.started("gone", "v1", 1)
    metrics.forget_service("gone")
    return metrics


def page_of(metrics: Metrics) -> str:
    page = metrics.render(openmetrics=False)[0].decode()
    return re.sub(r"proxy_build_info\{.*\}", "proxy_build_info", page)


def test_names_labels_help_buckets_and_values_are_what_they_were():
    assert page_of(busy_day(Metrics(sample))) == PAGE.read_text()


def test_without_a_sample_there_is_what_control_counts():
    page = page_of(busy_day(Metrics()))
    assert "proxy_swaps_total" in page
    assert "proxy_connections" not in page


def test_trouble_and_the_last_handover_are_shown():
    metrics = Metrics(lambda: Sample([], {}, 0, trouble={"state": True, "counters": False}, handover_pause=0.25))
    found = values(metrics)
    assert found["proxy_trouble", (("kind", "state"),)] == 1
    assert found["proxy_trouble", (("kind", "counters"),)] == 0
    assert found["proxy_handover_pause_seconds", ()] == 0.25


def test_before_the_first_handover_no_pause_is_claimed():
    assert ("proxy_handover_pause_seconds", ()) not in values(Metrics(lambda: Sample([], {}, 0)))


def test_a_rate_sees_the_very_first_upgrade_start_and_handover():
    metrics = Metrics()
    zero = values(metrics)
    for result in ("upgraded", "failed"):
        assert zero["proxy_upgrades_total", (("result", result),)] == 0
    for how in ("first", "adopted", "upgraded"):
        assert zero["proxy_control_starts_total", (("how", how),)] == 0
    assert zero["proxy_handover_connections_total", ()] == 0
    metrics.upgraded("failed")
    metrics.control_started("adopted")
    metrics.handed_over(5000)
    metrics.handed_over(1)
    found = values(metrics)
    assert found["proxy_upgrades_total", (("result", "failed"),)] == 1
    assert found["proxy_control_starts_total", (("how", "adopted"),)] == 1
    assert found["proxy_handover_connections_total", ()] == 5001


# A new control process goes on from where the last one was.


def successor(metrics: Metrics) -> Metrics:
    after = Metrics(metrics.source)
    after.restore(json.loads(json.dumps(metrics.save())))
    return after


@pytest.mark.parametrize("openmetrics", [False, True])
def test_the_next_process_shows_the_same_page(openmetrics):
    before = busy_day(Metrics(sample))
    assert successor(before).render(openmetrics=openmetrics) == before.render(openmetrics=openmetrics)


NAMES = st.sampled_from(["web", "db"])
VERSIONS = st.sampled_from(["v1", "v2"])
NUMBERS = st.integers(1, 3)
SECONDS = st.floats(0, 1e4)
EVENTS = st.one_of(
    st.tuples(st.just("service"), NAMES),
    st.tuples(st.just("started"), NAMES, VERSIONS, NUMBERS),
    st.tuples(st.just("forget"), NAMES, VERSIONS, NUMBERS),
    st.tuples(st.just("forget_service"), NAMES),
    st.tuples(st.just("restarted"), NAMES, VERSIONS),
    st.tuples(st.just("checked"), NAMES, VERSIONS, st.sampled_from(["ok", "failed"])),
    st.tuples(st.just("swapped"), NAMES, st.sampled_from(["swapped", "failed"])),
    st.tuples(st.just("phase"), NAMES, st.sampled_from(["start", "drain"]), SECONDS),
    st.tuples(st.just("drained"), NAMES, st.sampled_from(["drained", "forced"]), SECONDS, st.integers(0, 9)),
    st.tuples(st.just("upgraded"), st.sampled_from(["upgraded", "failed"])),
    st.tuples(st.just("control_started"), st.sampled_from(["first", "adopted"])),
    st.tuples(st.just("handed_over"), st.integers(0, 9)),
    st.just(("crash",)),
)


@given(st.lists(EVENTS, max_size=40))
def test_whenever_control_crashes_the_page_is_as_if_it_had_not(events):
    steady = Metrics()
    crashing = Metrics()
    for name, *arguments in events:
        if name == "crash":
            crashing = successor(crashing)
        else:
            getattr(steady, name)(*arguments)
            getattr(crashing, name)(*arguments)
    assert crashing.render(openmetrics=True) == steady.render(openmetrics=True)
    assert sorted(crashing.generations) == sorted(steady.generations)


def test_a_generation_that_is_gone_and_still_shown_keeps_its_version():
    after = successor(busy_day(Metrics()))
    assert after.version_of("web", 3) == "v1"
    assert ("web", "v1", 3) in after.generations


def test_what_is_left_of_services_and_generations_that_are_gone_can_be_found_and_forgotten():
    after = successor(busy_day(Metrics()))
    for service, version, number in after.generations:
        after.forget(service, version, number)
    assert after.services == {"web", 'odd "name"\\\n'}
    for service in after.services:
        after.forget_service(service)
    assert not after.services
    assert page_of(after) == page_of(Metrics())


def test_what_is_begun_again_for_an_adopted_service_stays_as_it_was():
    before = busy_day(Metrics(sample))
    after = successor(before)
    after.service("web")
    after.started("web", "v1", 3)
    assert page_of(after) == page_of(before)


def test_what_was_counted_before_the_restore_is_added():
    after = busy_day(Metrics())
    after.started("web", "v9", 9)
    after.restore(busy_day(Metrics()).save())
    assert after.version_of("web", 9) == "v9"
    found = values(after)
    assert found["proxy_swaps_total", (("result", "swapped"), ("service", "web"))] == 2
    assert found["proxy_drain_seconds_count", (("service", "web"),)] == 16


def test_what_was_saved_stays_as_it_was():
    before = busy_day(Metrics())
    saved = before.save()
    kept = copy.deepcopy(saved)
    after = Metrics()
    after.restore(saved)
    eventful(after)
    eventful(before)
    assert saved == kept


def test_an_earlier_release_counted_less_and_a_later_one_more():
    saved = busy_day(Metrics()).save()
    del saved["tallies"]["proxy_upgrades"]
    saved["tallies"]["proxy_not_invented_yet"] = [[["web"], "?"]]
    after = Metrics()
    after.restore(saved)
    found = values(after)
    assert found["proxy_upgrades_total", (("result", "failed"),)] == 0
    assert found["proxy_swaps_total", (("result", "swapped"), ("service", "web"))] == 1


DAMAGE = [
    ("proxy_swaps", [[["web", "swapped"], -1]]),
    ("proxy_swaps", [[["web", "swapped"], 1.5]]),
    ("proxy_swaps", [[["web", "swapped"], True]]),
    ("proxy_swaps", [[["web", "swapped"], 10**400]]),
    ("proxy_swaps", [[["web"], 1]]),
    ("proxy_swaps", [[["web", 1], 1]]),
    ("proxy_swaps", [[["web", "\ud800"], 1]]),
    ("proxy_swaps", [["ab", 1]]),
    ("proxy_swaps", [1]),
    ("proxy_swaps", {}),
    ("proxy_swaps", None),
    ("proxy_drain_seconds", [[["web"], [[1, 2], 3.0]]]),
    ("proxy_drain_seconds", [[["web"], [[1.0] * 13, 3.0]]]),
    ("proxy_drain_seconds", [[["web"], [[1] * 13, float("nan")]]]),
    ("proxy_drain_seconds", [[["web"], [[1] * 13, float("inf")]]]),
    ("proxy_drain_seconds", [[["web"], [[1] * 13, "1"]]]),
    ("proxy_drain_seconds", [[["web"], 3]]),
]


@pytest.mark.parametrize(("name", "value"), DAMAGE)
def test_damage_is_refused_as_a_whole(name, value):
    saved = busy_day(Metrics()).save()
    saved["tallies"][name] = value
    after = Metrics()
    page = page_of(after)
    with pytest.raises(ValueError, match="not "):
        after.restore(saved)
    assert page_of(after) == page
    assert not after.generations


@pytest.mark.parametrize(
    "saved", [{}, {"versions": [], "tallies": []}, {"versions": [["web", "1", "v1"]], "tallies": {}}, []]
)
def test_another_shape_is_refused(saved):
    with pytest.raises(ValueError, match="not "):
        Metrics().restore(saved)


def test_each_change_is_told_so_that_it_can_be_saved():
    metrics = Metrics()
    told = []
    metrics.on_change = lambda: told.append(json.dumps(metrics.save()))
    busy_day(metrics)
    metrics.upgraded("failed")
    metrics.control_started("first")
    metrics.handed_over(3)
    metrics.restore(metrics.save())
    assert told[-1] == json.dumps(metrics.save())
    assert len(told) >= 40
