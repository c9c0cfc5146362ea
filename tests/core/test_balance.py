"""Balancing: nobody is left out, and nobody gets more than it should."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.balance import POLICIES, least, round_robin

loads = st.lists(st.integers(0, 1000), min_size=1, max_size=20)
turns = st.integers(0, 10**9)


@given(loads, turns)
def test_least_picks_one_with_the_fewest_connections(loads: list[int], turn: int) -> None:
    assert loads[least(loads, turn)] == min(loads)


@given(loads, turns)
def test_replicas_that_tie_take_turns(loads: list[int], turn: int) -> None:
    tied = loads.count(min(loads))
    assert len({least(loads, turn + step) for step in range(tied)}) == tied


@given(st.integers(1, 10), st.integers(0, 200))
def test_least_keeps_the_loads_within_one_of_each_other(replicas: int, connections: int) -> None:
    loads = [0] * replicas
    for turn in range(connections):
        loads[least(loads, turn)] += 1
    assert max(loads) - min(loads) <= 1


@given(loads, turns)
def test_round_robin_visits_each_in_order(loads: list[int], turn: int) -> None:
    visited = [round_robin(loads, turn + step) for step in range(len(loads))]
    assert sorted(visited) == list(range(len(loads)))
    assert all((after - before) % len(loads) == 1 % len(loads) for before, after in pairwise(visited))


def test_the_policies_have_the_names_that_a_config_uses() -> None:
    assert set(POLICIES) == {"least", "round_robin"}
