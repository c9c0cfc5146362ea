"""Whether a target is met: against whom, by which bound, and what is said where nothing was measured."""

from __future__ import annotations

import pytest

from loadtests.model import HTTP, TCP
from loadtests.ratios import PROXIES
from loadtests.targets import (
    AT_LEAST,
    AT_MOST,
    MET,
    MISSED,
    NOT_MEASURED,
    SMALL_MESSAGES,
    TARGETS,
    Target,
    evaluate,
)
from tests.loadtests.made_up import EVERY_TCP, measured, relay

RATES = {"proxyctl TCP": 100.0, "HAProxy TCP": 80.0, "nginx TCP": 110.0, "Envoy TCP": 90.0, "naive TCP": 25.0}


def of(values: dict[str, float], target: Target, column: str = "rate") -> tuple[str, float | None, tuple[str, ...]]:
    one = measured({"kept-32": {name: [{column: value}] for name, value in values.items()}})
    (verdict,) = evaluate(one, [target])
    return verdict.status, verdict.value, verdict.against


def rate(bound: str, factor: float, *peers: str, which: str = "") -> Target:
    return Target(1, "kept-32", "rate", TCP, bound, factor, peers, which)


def test_the_median_of_peers_is_of_those_that_were_measured() -> None:
    target = rate(AT_LEAST, 1.0, *PROXIES, which="median")
    assert of(RATES, target) == (MET, pytest.approx(100 / 90), PROXIES)
    without = {name: value for name, value in RATES.items() if "Envoy" not in name}
    assert of(without, target) == (MET, pytest.approx(100 / 95), ("HAProxy", "nginx"))


def test_the_best_peer_is_the_fastest_where_more_is_wanted_and_the_cheapest_where_less_is() -> None:
    assert of(RATES, rate(AT_LEAST, 1.0, *PROXIES, which="best"))[:2] == (MISSED, pytest.approx(100 / 110))
    assert of(RATES, rate(AT_MOST, 1.1, *PROXIES, which="best"))[:2] == (MISSED, pytest.approx(100 / 80))


@pytest.mark.parametrize(("factor", "status"), [(4.0, MET), (4.01, MISSED)])
def test_a_bound_that_is_just_reached_is_met(factor: float, status: str) -> None:
    assert of(RATES, rate(AT_LEAST, factor, "naive")) == (status, 4.0, ("naive",))


@pytest.mark.parametrize(("factor", "status"), [(1.25, MET), (1.24, MISSED)])
def test_a_bound_from_above_works_the_other_way_round(factor: float, status: str) -> None:
    assert of(RATES, rate(AT_MOST, factor, "HAProxy")) == (status, 1.25, ("HAProxy",))


def test_without_peers_the_value_itself_is_judged() -> None:
    target = Target(7, "kept-32", "errors", TCP, AT_MOST, 0.0)
    assert of({"proxyctl TCP": 0.0}, target, "errors") == (MET, 0.0, ())
    assert of({"proxyctl TCP": 1.0}, target, "errors") == (MISSED, 1.0, ())


def test_one_failure_in_one_round_misses_a_target_of_none() -> None:
    one = measured({"swap": {"proxyctl TCP": [{"errors": 0.0}, {"errors": 1.0}, {"errors": 0.0}]}})
    (verdict,) = evaluate(one, [Target(7, "swap", "errors", TCP, AT_MOST, 0.0)])
    assert (verdict.status, verdict.value) == (MISSED, 1.0)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    target = rate(AT_LEAST, 1.0, "HAProxy")
    assert of({"proxyctl TCP": 5.0}, target) == (NOT_MEASURED, None, ())
    assert of({"HAProxy TCP": 5.0}, target)[:2] == (NOT_MEASURED, None)
    assert of({"proxyctl TCP": 5.0, "HAProxy TCP": 0.0}, target)[:2] == (NOT_MEASURED, None)


def test_relays_with_two_workers_and_of_the_other_protocol_are_not_confused() -> None:
    relays = [relay("proxyctl", TCP, 2), relay("proxyctl", HTTP), *EVERY_TCP]
    rates = {"proxyctl TCP, 2": 500.0, "proxyctl HTTP": 700.0, "proxyctl TCP": 1.0, "HAProxy TCP": 2.0}
    one = measured({"kept-32": {name: [{"rate": value}] for name, value in rates.items()}}, relays)
    (verdict,) = evaluate(one, [rate(AT_LEAST, 1.0, "HAProxy")])
    assert verdict.value == 0.5


def test_every_goal_has_its_targets() -> None:
    assert sorted({target.goal for target in TARGETS}) == [*range(1, 11)]
    assert all((target.which != "") == (len(target.peers) > 1) for target in TARGETS)
    assert {target.scenario for target in TARGETS if target.goal == 8} == set(SMALL_MESSAGES)
    assert len(set(TARGETS)) == len(TARGETS)
