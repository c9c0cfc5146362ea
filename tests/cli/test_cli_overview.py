"""`proxyctl status` as text: what a person needs at 3 a.m. is there, at any width."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from proxy.cli.cells import span
from proxy.cli.overview import overview
from proxy.cli.progress import Phase, Progress
from tests.fakes import STATUS, result_of

NOW = 1789000100.0


def status(**service: Any) -> dict[str, Any]:
    found = copy.deepcopy(STATUS)
    found["services"]["web"].update(service)
    return found


def generation(number: int, version: str, state: str, **values: Any) -> dict[str, Any]:
    return {
        **copy.deepcopy(STATUS["services"]["web"]["generations"][0]),
        "id": number,
        "version": version,
        "state": state,
    } | values


def shown(found: dict[str, Any], width: int | None = None) -> str:
    return "\n".join(overview(found, now=NOW, width=width))


def test_the_contracts_object_is_enough() -> None:
    assert shown(status()) == (
        "proxy 0.1.0, process 1, up 12s, 1 worker, 10 connections\n"
        "\n"
        "web serving v1 on 0.0.0.0:8080 (tcp, relay)\n"
        "  GEN  VERSION  STATE   CONNECTIONS  HEALTHY    AGE\n"
        "    1  v1       active           10  1 of 1   1m40s"
    )


@pytest.mark.parametrize(
    ("admin", "says"),
    [
        ({"address": "127.0.0.1:9900", "tls": False, "tokens": False}, "admin page http://127.0.0.1:9900/"),
        ({"address": "[::]:9900", "tls": True, "tokens": True}, "admin page https://[::]:9900/, with a token"),
    ],
)
def test_where_the_admin_page_is_can_be_found(admin: dict[str, Any], says: str) -> None:
    found = status()
    found["proxy"]["admin"] = admin
    assert shown(found).splitlines()[1] == says
    assert all(span(text) <= 30 for text in shown(found, 30).splitlines())
    found["proxy"]["admin"] = None
    assert "admin" not in shown(found)


def test_requests_in_flight_are_shown_where_they_are_known() -> None:
    generations = [generation(1, "v1", "draining", in_flight=3), generation(2, "v2", "active", in_flight=0)]
    lines = shown(status(protocol="http", generations=generations)).splitlines()
    assert lines[3:] == [
        "  GEN  VERSION  STATE     CONNECTIONS  IN FLIGHT  HEALTHY    AGE",
        "    2  v2       active             10          0  1 of 1   1m40s",
        "    1  v1       draining           10          3  1 of 1   1m40s",
    ]
    assert "IN FLIGHT" not in shown(status(generations=[generation(1, "v1", "active", in_flight=None)]))


def steered(**service: Any) -> dict[str, Any]:
    return status(**{"datapath": "steer", "datapath_configured": "steer", "datapath_reason": "", **service})


def test_what_is_steered_is_counted_where_connections_are_to_be_steered() -> None:
    generations = [
        generation(1, "v1", "draining", steered=90, fallen_through=0),
        generation(2, "v2", "active", steered=1234, fallen_through=5),
    ]
    lines = shown(steered(generations=generations)).splitlines()
    assert lines[2:] == [
        "web serving v1 on 0.0.0.0:8080 (tcp, steer)",
        "  GEN  VERSION  STATE     CONNECTIONS  STEERED  FELL THROUGH  HEALTHY    AGE",
        "    2  v2       active             10     1234             5  1 of 1   1m40s",
        "    1  v1       draining           10       90             0  1 of 1   1m40s",
    ]
    assert "STEERED" not in shown(status(generations=generations))


def test_requests_and_what_is_steered_have_columns_of_their_own() -> None:
    only = generation(1, "v1", "active", in_flight=3, steered=7, fallen_through=4)
    head, row = shown(steered(protocol="http", generations=[only])).splitlines()[3:]
    assert head.split()[3:8] == ["CONNECTIONS", "IN", "FLIGHT", "STEERED", "FELL"]
    assert row.split()[3:7] == ["10", "3", "7", "4"]


REASON = "this process may not steer: it needs CAP_BPF and CAP_NET_ADMIN, and to write to /sys/fs/bpf"


def test_a_data_path_that_is_not_in_effect_is_said_to_be_that_with_its_reason() -> None:
    lines = shown(steered(datapath="relay", datapath_reason=REASON)).splitlines()
    assert lines[2].endswith("(tcp, relay)")
    assert lines[3] == f'  "steer" is configured, and "relay" in effect: {REASON}'
    for width in (40, 80):
        lines = shown(steered(datapath="relay", datapath_reason=REASON), width).splitlines()
        assert all(len(line) <= width for line in lines)
        assert REASON in " ".join(line.strip() for line in lines)


def test_a_data_path_in_effect_needs_no_line() -> None:
    for path in ("relay", "steer", "inherit"):
        assert "in effect" not in shown(status(datapath=path, datapath_configured=path, datapath_reason=""))


def test_a_drain_shows_how_far_it_is_and_when_it_ends() -> None:
    drain = {"started": NOW - 5, "deadline": NOW + 25, "initial": 40, "remaining": 12, "forced": 0}
    generations = [generation(1, "v1", "draining", drain=drain), generation(2, "v2", "active")]
    lines = shown(status(active="v2", state="swapping", generations=generations)).splitlines()
    assert lines[2].startswith("web swapping v2 on")
    assert lines[4].split()[:3] == ["2", "v2", "active"]  # the newest first
    assert lines[5].split()[:3] == ["1", "v1", "draining"]
    assert lines[6] == "    ██████████████░░░░░░ 12 of 40 left to drain, closed in 25s"


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (60, "    ████████████░░░░░░ 12 of 40 left to drain, closed in 25s"),
        (40, "  ██████░░░ 12 of 40 left, closed in 25s"),
        (20, "  ████░░░ 12/40, 25s"),
    ],
)
def test_a_narrow_screen_keeps_what_matters_most(width: int, row: str) -> None:
    drain = {"started": NOW - 5, "deadline": NOW + 25, "initial": 40, "remaining": 12, "forced": 0}
    generations = [generation(1, "v1", "draining", drain=drain), generation(2, "v2", "active")]
    last = result_of(result="failed", error="exited with status 1: no such module", finished=NOW - 60)
    found = status(active="v2", state="draining", generations=generations, last_swap=last, listen=["0.0.0.0:80"] * 3)
    lines = shown(found, width).splitlines()
    assert all(span(line) <= width for line in lines)
    assert row in lines
    assert any(line.startswith("web draining v2") for line in lines)
    assert any(line.split()[-2:] == ["v1", "draining"] or "v1       draining" in line for line in lines)
    assert "exited with status 1: no such module" in " ".join(line.strip() for line in lines)


def test_a_sick_replica_is_named_with_its_reason() -> None:
    sick = {
        "replica": 1,
        "pid": 7,
        "address": "127.0.0.1:20002",
        "healthy": False,
        "restarts": 3,
        "reason": "connection refused",
    }
    well = STATUS["services"]["web"]["generations"][0]["replicas"][0]
    text = shown(status(generations=[generation(1, "v1", "active", replicas=[well, sick])]))
    assert "1 of 2" in text
    trouble = (
        "generation 1 replica 1 (127.0.0.1:20002, process 7) is not healthy: connection refused; restarted 3 times"
    )
    assert trouble in text


def test_a_service_without_a_version_is_down_and_still_shown() -> None:
    assert "web down no version on 0.0.0.0:8080" in shown(status(state="down", active=None, generations=[]))


def test_what_is_under_way_and_what_was_last() -> None:
    operation = {"id": 3, "kind": "swap", "from": "v1", "to": "v2", "phase": "health", "started": NOW - 3}
    last = result_of(finished=NOW - 3600, started=NOW - 3602)
    text = shown(status(operation=operation, last_swap=last))
    assert "  swap v1 -> v2: health, for 3s\n    ✓ start  > health  · switch  · drain  · stop\n" in text
    assert text.endswith("  last: swap v1 -> v2, 1h00m ago, took 2.00s, 3 connections finished")


def test_for_how_long_both_accepted_is_shown_where_they_did() -> None:
    last = result_of(finished=NOW - 60, started=NOW - 62, overlap=0.12)
    assert shown(status(last_swap=last)).endswith(
        ", 3 connections finished, both generations accepted for at most 120ms"
    )
    assert shown(status(last_swap={**last, "overlap": None})).endswith(", 3 connections finished")


@pytest.mark.parametrize(("result", "words"), [("failed", "failed"), ("rolled_back", "rolled back")])
def test_a_last_swap_that_failed_says_why(result: str, words: str) -> None:
    last = result_of(result=result, error="exited with status 1", finished=NOW - 60)
    assert shown(status(last_swap=last)).endswith(f"  last: swap v1 -> v2 {words}, 1m00s ago: exited with status 1")


def test_what_the_descriptor_limit_allows_is_shown() -> None:
    found = status()
    found["proxy"]["limits"] = {"descriptors": 20000, "descriptors_hard": 20000}
    assert "room for about 10000 connections in each worker (20000 file descriptors)" in shown(found)


FULL = {
    "kind": "state",
    "message": "the state cannot be written to /var/lib/proxyctl/state.json: No space left on device",
    "hint": "make room: `df -h /var/lib/proxyctl` shows how full it is",
    "since": NOW - 200,
}
STEP = {"kind": "clock", "message": "the clock was set back by 60.0 s", "hint": "", "since": NOW - 5}


def test_trouble_of_the_proxy_itself_comes_first_with_what_to_do() -> None:
    found = status()
    found["proxy"] |= {"trouble": [FULL, STEP], "stopping": True, "worker_restarts": 2}
    lines = shown(found).splitlines()
    assert lines[0].endswith("2 worker restarts")
    assert lines[1:6] == [
        "the proxy is stopping",
        f"trouble: {FULL['message']} (for 3m20s)",
        f"  {FULL['hint']}",
        "trouble: the clock was set back by 60.0 s (for 5s)",
        "",
    ]


def test_trouble_is_wrapped_rather_than_cut_since_the_reason_comes_last() -> None:
    found = status()
    found["proxy"]["trouble"] = [FULL]
    for width in (40, 80):
        lines = shown(found, width).splitlines()
        assert all(len(line) <= width for line in lines)
        assert "No space left on device (for 3m20s)" in " ".join(line.strip() for line in lines)


@pytest.mark.parametrize(("trouble", "lines"), [("disk full", ["trouble: disk full"]), ("", []), ([], []), (None, [])])
def test_a_proxy_of_the_release_before_is_understood(trouble: object, lines: list[str]) -> None:
    found = status()
    found["proxy"]["trouble"] = trouble
    assert [line for line in shown(found).splitlines() if "trouble" in line] == lines


def test_phases_have_times_where_they_are_known() -> None:
    operation = {"id": 3, "service": "web", "kind": "swap", "from": "v1", "to": "v2", "phase": "health"}
    story = Progress({**operation, "started": NOW - 3})
    story.phases = {"start": Phase(NOW - 3, 0.012), "health": Phase(NOW - 2.98)}
    lines = overview(status(operation=story.begun), now=NOW, width=None, stories=[story])
    assert lines[-1] == "    ✓ start 12ms  > health 2.98s  · switch  · drain  · stop"


def test_a_rollback_is_not_said_to_have_been_through_phases_that_it_may_not_have_had() -> None:
    operation = {"id": 3, "kind": "rollback", "from": "v2", "to": "v1", "phase": "switch", "started": NOW}
    assert shown(status(operation=operation)).endswith("    > switch  · drain  · stop")


@pytest.mark.parametrize("width", [10, 20, 40, 60, 80])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    drain = {"started": NOW, "deadline": NOW + 25, "initial": 40, "remaining": 12, "forced": 0}
    generations = [generation(2, "v" * 30, "active"), generation(1, "v1", "draining", drain=drain)]
    operation = {"id": 3, "kind": "swap", "from": "v" * 64, "to": "w" * 64, "phase": "health", "started": NOW - 3}
    for error in ("x" * 300, "日本語のエラー 🚀 " * 20):
        last = result_of(result="failed", error=error)
        found = status(state="swapping", generations=generations, last_swap=last, operation=operation)
        found["proxy"]["limits"] = {"descriptors": 1048576, "descriptors_hard": 1048576}
        assert all(span(line) <= width for line in shown(found, width).splitlines())


def test_what_a_backend_said_is_shown_and_not_obeyed() -> None:
    last = result_of(result="failed", error="it said \x1b[31m\x07 and\nmore", finished=NOW)
    assert shown(status(last_swap=last)).endswith(r"it said \x1b[31m\x07 and\nmore")
