"""Drains of connections that no worker sees: who is counted, who is closed at the deadline, and who is not."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import Events, Held, Load, eventually, fetch, free_port, is_alive
from tests.e2e.steer.clients import Standing, raise_limit
from tests.e2e.steer.elsewhere import bystander
from tests.e2e.steer.harness import Steered, result, service
from tests.e2e.steer.kernel import marked, steerings
from tests.e2e.steer.servers import many
from tests.e2e.steer.shared import steered_by

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.shared import Shared

shared = steered_by(
    counted={},
    told={},
    early={},
    last={"drain": 'signal_at = "end"'},
    warm={"drain": 'keep_warm = "60s"'},
    revived={"drain": 'signal_at = "end"'},
    baked={"drain": 'bake = "60s"', "v1": many(), "v2": many("--abrupt")},
    paused={},
)
MARK = 0x5A000000  # the first one, unless the config says otherwise


def test_exactly_what_a_backend_has_open_is_counted_and_closed_at_the_deadline_and_nobody_else_notices(
    shared: Shared,
) -> None:
    raise_limit()
    (proxy, port), elsewhere = shared("counted"), free_port()
    with (
        Events(proxy) as events,
        # Of another service of the machine: on another port, and on this one, of another address, with the same marks.
        bystander(elsewhere),
        bystander(port, f"--mark={MARK + 1}", host="127.0.0.2"),
        Standing(elsewhere, 50) as others,
        Standing(port, 50, host="127.0.0.2") as neighbours,
    ):
        for count, version in zip((0, 1, 100, 5000), ("v2", "v3", "v1", "v2"), strict=True):
            with Standing(port, count) as clients:
                assert int(fetch(port, "/count")) == count
                eventually(lambda count=count: proxy.active()["connections"] == count, what=f"{count} connections")
                number = proxy.begin_swap(events, version, deadline="500ms")
                with Standing(port, 10) as newcomers:
                    drain = events.wait(operation=number, type="drain") if count else {"initial": 0}
                    ended = result(events, number)
                    newcomers.ask()
                assert drain["initial"] == count
                assert (ended["drained"], ended["forced"]) == (0, count)
                assert clients.ended() == count
            neighbours.ask()
        others.ask()


def test_progress_of_a_drain_is_told_and_its_end_comes_with_its_last_connection(shared: Shared) -> None:
    proxy, port = shared("told")
    with Events(proxy) as events, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Standing(port, 5)) for _ in range(3)]
        number = proxy.begin_swap(events, "v2", deadline="60s")
        first = events.wait(operation=number, type="drain")
        assert (first["initial"], first["remaining"], first["generation"]) == (15, 15, 1)
        for left in (10, 5, 0):
            clients.pop().close()
            events.wait(operation=number, type="drain", remaining=left)
        ended = result(events, number)
        assert (ended["drained"], ended["forced"]) == (15, 0)


def test_two_proxies_with_the_same_marks_close_each_its_own_connections(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    with contextlib.ExitStack() as stack:
        proxies = [
            stack.enter_context(Steered(folder, service(port))) for folder, port in zip(folders, ports, strict=True)
        ]
        clients = [stack.enter_context(Standing(port, 20)) for port in ports]
        assert [proxy.active()["connections"] for proxy in proxies] == [20, 20]
        assert proxies[0].operate("swap", version="v2", deadline="300ms")["forced"] == 20
        clients[1].ask()
        proxies[0].stop()
        clients[1].ask()
        assert fetch(ports[1]).startswith("v1 1 ")
        proxies[1].assert_steered()


@pytest.mark.parametrize(("name", "listens"), [("early", False), ("last", True)])
def test_a_backend_is_told_at_the_switch_that_it_is_to_leave_so_that_it_can_say_goodbye(
    shared: Shared, name: str, listens: bool
) -> None:
    proxy, port = shared(name)
    with Events(proxy) as events, Held(port) as client:
        client.ask()
        (old,) = proxy.pids()
        private = int(proxy.active()["replicas"][0]["address"].rpartition(":")[2])
        number = proxy.begin_swap(events, "v2", deadline="60s")
        events.wait(operation=number, type="drain", remaining=1)
        if listens:
            fetch(private)
        else:
            eventually(lambda: not _listens(private), what="it has been told")
        assert client.ask() == f"v1 1 0 {old}"
        client.close()
        assert result(events, number)["drained"] == 1
        assert not is_alive(old)


def _listens(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_a_warm_generation_takes_over_at_once_with_the_same_process(shared: Shared) -> None:
    proxy, port = shared("warm")
    with Load(port, 4) as load:
        (first,) = proxy.pids()
        proxy.operate("swap", version="v2")
        (second,) = proxy.pids()
        for pid in (first, second):
            load.wait_for(10)
            back = proxy.operate("rollback")
            assert back["phases"]["start"] == back["phases"]["health"] == 0
            assert proxy.pids() == [pid]
            assert fetch(port).endswith(f" {pid}")
            proxy.assert_steered()
        load.wait_for(10)
        load.stop()
        assert not load.errors
        assert proxy.counts()[1] == 0


def test_rollback_amid_a_drain_gives_its_generation_back_with_every_connection(shared: Shared) -> None:
    proxy, port = shared("revived")
    with Events(proxy) as events, Standing(port, 20) as clients:
        (old,) = proxy.pids()
        proxy.begin_swap(events, "v2", deadline="60s")
        with Standing(port, 5) as later:
            assert proxy.begin("rollback")["id"]
            eventually(lambda: fetch(port) == f"v1 1 0 {old}", what="v1 is back")
            clients.ask()
            later.ask()
            assert {answer.split()[0] for answer in later.answers} == {"v2"}
        eventually(lambda: len(proxy.service()["generations"]) == 1, what="v2 is gone")
        assert proxy.active()["connections"] == 20
        clients.ask()


def test_a_version_that_dies_in_its_bake_time_gives_way_and_whoever_comes_later_is_served(shared: Shared) -> None:
    proxy, port = shared("baked")
    with Events(proxy) as events, Held(port) as client, Load(port, 4) as load:
        (old,) = proxy.pids()
        client.ask()
        number = proxy.begin("swap", version="v2")["id"]
        events.wait(operation=number, phase="bake", state="begin")
        assert fetch(port).startswith("v2 ")
        with contextlib.suppress(OSError, ValueError):
            fetch(port, "/break")
        ended = result(events, number)
        assert ended["result"] == "rolled_back"
        assert client.ask() == fetch(port) == f"v1 1 0 {old}"
        load.wait_for(20)
        load.stop()
        lost = [error for _, error in load.failures]
        assert len(lost) <= load.clients, "what had been given to the version that died"
        assert not [error for error in lost if "refused" in error.lower()]


def test_who_comes_in_a_pause_is_held_and_who_is_there_goes_on_and_after_it_the_kernel_steers_again(
    shared: Shared,
) -> None:
    proxy, port = shared("paused")
    with Events(proxy) as events, contextlib.ExitStack() as stack:
        before = stack.enter_context(Standing(port, 5))
        proxy.begin("pause")
        held = [stack.enter_context(Held(port)) for _ in range(10)]
        for client in held:
            client.send()
        assert not held[0].has_answer()
        before.ask()
        proxy.begin_swap(events, "v2", deadline="60s")
        before.ask()
        assert not any(client.has_answer(within=0) for client in held)
        proxy.begin("resume")
        assert {client.answer().split()[0] for client in held} == {"v2"}
        steered = proxy.counts()[0]
        fetch(port)
        assert proxy.counts()[0] == steered + 1


def test_nothing_is_left_in_the_kernel_after_a_stop_with_connections_and_a_drain(tmp_path: Path) -> None:
    port = free_port()
    with (
        Steered(tmp_path, service(port, drain='deadline = "500ms"')) as proxy,
        Events(proxy) as events,
        Standing(port, 10) as old,
    ):
        (steering,) = steerings(port)
        assert steering.pins
        assert steering.links
        assert steering.maps
        assert marked(port) == 10
        proxy.begin_swap(events, "v2", deadline="2s")
        with Standing(port, 10) as new:
            proxy.stop()
            assert (old.ended(), new.ended()) == (10, 10)
        eventually(steering.is_gone, what="nothing is left")
        assert not steerings(port)
        assert not marked(port)
