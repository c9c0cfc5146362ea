"""What the history says of a service's swaps, for the metrics."""

from __future__ import annotations

import pytest

from proxy.control.sample import Past, pasts_in


def entry(service: str, result: str, started: float, finished: float) -> dict[str, object]:
    return {"service": service, "result": result, "started": started, "finished": finished, "id": 1}


def test_the_last_start_and_the_last_end_of_each_result_are_shown():
    found = pasts_in(
        [
            entry("web", "failed", 10.0, 11.0),
            entry("db", "swapped", 12.0, 13.0),
            entry("web", "swapped", 20.5, 22.5),
            entry("web", "failed", 30.0, 31.0),
        ]
    )
    assert found == {"web": Past(30.0, {"failed": 31.0, "swapped": 22.5}), "db": Past(12.0, {"swapped": 13.0})}


def test_a_swap_that_drained_for_long_does_not_take_the_place_of_one_that_began_after_it():
    found = pasts_in([entry("web", "failed", 50.0, 51.0), entry("web", "swapped", 40.0, 60.0)])
    assert found["web"] == Past(50.0, {"failed": 51.0, "swapped": 60.0})


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {"service": "web", "result": "swapped", "started": "noon", "finished": 1.0},
        {"service": "web", "result": "swapped", "finished": 1.0},
        {"service": ["web"], "result": "swapped", "started": 1.0, "finished": 1.0},
    ],
)
def test_a_line_of_the_history_file_that_is_no_operation_does_not_end_scrapes(damaged):
    assert pasts_in([damaged, entry("web", "swapped", 1.0, 2.0)]) == {"web": Past(1.0, {"swapped": 2.0})}
