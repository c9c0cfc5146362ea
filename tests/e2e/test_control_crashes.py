"""Control is killed at each step of what it does, and started again: no client notices, and nothing is left behind.

One proxy is used for all points that end with it serving again; a test that fails costs the next one a new proxy.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e import configs, http_harness
from tests.e2e.crash_harness import Calm, KeptLoad, Mortal, assert_one_step, serving
from tests.e2e.crashing import POINTS, Order, resolve
from tests.e2e.harness import Held, eventually, fetch, free_port, is_alive, kill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Service by service: a swap has something to do at each of its points.
DRAIN = 'stop_timeout = "2s"\ndeadline = "1s"\n'
EXTRAS = {"web": "", "site": "", "oven": 'bake = "60s"', "cellar": 'keep_warm = "60s"'}

# What a swap has come to when control dies: nothing that could be on file; not switched; switched; drained.
BEGUN = ["accepted", "operation-not-on-file"]
STARTING = [
    "operation-on-file", "before-spawn", "spawned", "between-replicas", "all-spawned", "backend-not-on-file",
    "backend-on-file", "healthy", "before-switch", "hold-sent-to-one", "hold-sent-to-all", "held",
]  # fmt: skip
SWITCHED = [
    "decided", "route-sent-to-one", "route-sent-to-all", "switched", "switch-not-on-file", "switch-on-file",
    "drain-begins", "draining", "deadline",
]  # fmt: skip
DRAINED = ["closed", "before-stop", "stopped", "before-history", "history-written"]
AROUND_THE_SWITCH = ["before-switch", "hold-sent-to-one", "held", "decided", "route-sent-to-one", "switched"]


def some(points: list[Any], *chosen: int) -> list[Any]:
    """Those with these indexes, unless CRASHES_FULL=1 asks for all: the others differ little from one of them."""
    return points if os.environ.get("CRASHES_FULL") else [points[index] for index in chosen]


@dataclass
class World:
    """The proxy of this module, under load from all sides."""

    proxy: Mortal
    ports: dict[str, int]

    def other(self, service: str) -> str:
        """The version to swap to."""
        return "v2" if self.proxy.active(service)["version"] == "v1" else "v1"

    def order(self, point: str, service: str, version: str = "") -> Order:
        """Die in the next operation of a service, which is to make the next generation."""
        newest = max(each["id"] for each in self.proxy.service(service)["generations"])
        entries = [entry["generation"] or 0 for entry in self.proxy.history(service)]
        return Order(point, service, version or self.other(service), max([newest, *entries]) + 1)


def _config(ports: dict[str, int]) -> str:
    def version(name: str) -> str:
        return configs.backend(replicas=2 if name == "web" else 1)

    tables = ["workers = 2\n"]
    for name, port in ports.items():
        make = http_harness.service if name == "site" else configs.service
        health = 'interval = "100ms"\nfall = 1'
        versions = {"v1": version(name), "v2": version(name)}
        tables.append(make(port, name=name, health=health, drain=DRAIN + EXTRAS[name], **versions))
    return "".join(tables)


_worlds: list[World] = []


@pytest.fixture(scope="module", autouse=True)
def _end() -> Iterator[None]:
    yield
    while _worlds:
        _worlds.pop().proxy.kill()


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if not _worlds:
        ports = {name: free_port() for name in EXTRAS}
        proxy = Mortal(tmp_path_factory.mktemp("w"), _config(ports))
        _worlds.append(World(proxy, ports))
        proxy.start()
    failed = request.session.testsfailed
    yield _worlds[-1]
    if request.session.testsfailed > failed:
        _worlds.pop().proxy.kill()


def test_every_point_names_a_function_that_exists() -> None:
    for point in POINTS.values():
        resolve(point.target)


@pytest.mark.parametrize(
    "point", BEGUN + some(STARTING, 0, 2, 3, 5, 7, 8, 9, 11) + some(SWITCHED, 0, 1, 3, 4, 6, 7) + DRAINED
)
def test_in_a_swap(world: World, point: str) -> None:
    _die_in_a_swap(world, "web", point)


@pytest.mark.parametrize("point", some(AROUND_THE_SWITCH, 2, 4))
def test_in_a_swap_of_a_service_that_understands_requests(world: World, point: str) -> None:
    _die_in_a_swap(world, "site", point)


@pytest.mark.parametrize("point", some(AROUND_THE_SWITCH, 2, 3))
def test_in_a_restart(world: World, point: str) -> None:
    version = world.proxy.active()["version"]
    _die_in_a_swap(world, "web", point, verb="restart", version=version)


def _die_in_a_swap(world: World, service: str, point: str, *, verb: str = "swap", version: str = "") -> None:
    proxy, port = world.proxy, world.ports[service]
    order = world.order(point, service, version)
    old, workers = proxy.active(service), proxy.workers()
    before = proxy.history(service)
    with ExitStack() as stack:
        load = stack.enter_context(Calm(port, 4))
        kept = stack.enter_context(KeptLoad(world.ports["site"], 1))
        held = stack.enter_context(Held(port))
        mine = int(held.ask().split()[1])
        proxy.die_in(order, verb, **({"version": order.version} if verb == "swap" else {}))

        found = serving(port, workers)
        is_new = found == order.generation
        assert is_new == (point in SWITCHED + DRAINED), f"{point}: {found} serves"
        assert found in (old["id"], order.generation)
        if point not in DRAINED and service != "site":
            assert int(held.ask().split()[1]) == mine == old["id"], "who was there stays where he is"
        load.wait_for(20)
        kept.wait_for(5)

        proxy.start()
        assert serving(port, workers) == found, "and nobody moves when control is back"
        load.wait_for(20)
        kept.wait_for(5)
        assert not load.errors
        assert not kept.errors
        assert_one_step(load.answers, old["id"], found)
        if service == "site":
            assert_one_step(kept.answers, old["id"], found)

    _assert_settled(world, service, found)
    entry = _entry_since(world, service, before, optional=point in BEGUN)
    if entry:
        _assert_truthful(entry, order, verb, old, is_new=is_new)
    if not is_new:
        assert _lasting(proxy.active(service)) == _lasting(old), "it never stopped"
    assert proxy.workers() == workers
    _assert_works(world, service)


def _assert_settled(world: World, service: str, generation: int) -> None:
    """In the end there is one generation (and a warm one, where that is wanted), with all of its processes."""
    proxy = world.proxy

    def states() -> dict[int, str]:
        return {each["id"]: each["state"] for each in proxy.service(service)["generations"]}

    assert [number for number, state in states().items() if state == "active"] == [generation]
    eventually(lambda: set(states().values()) <= {"active", "warm"}, within=8, what=f"others leave: {states()}")
    proxy.assert_nothing_is_lost()


def _entry_since(world: World, service: str, before: list[dict[str, Any]], *, optional: bool) -> dict[str, Any] | None:
    """The one entry that has come since."""

    def since() -> list[dict[str, Any]]:
        return world.proxy.history(service)[len(before) :]

    if not optional:
        eventually(since, within=8, what="history says what became of the operation")
    entries = since()
    assert world.proxy.history(service)[: len(before)] == before
    assert len(entries) == 1 or (optional and not entries), entries
    return entries[0] if entries else None


def _assert_truthful(entry: dict[str, Any], order: Order, verb: str, old: dict[str, Any], *, is_new: bool) -> None:
    said = (entry["kind"], entry["from"], entry["to"], entry["result"])
    assert said == (verb, old["version"], order.version, "swapped" if is_new else "failed")
    if not is_new:
        assert "control" in entry["error"], entry
        assert entry["drained"] == entry["forced"] == 0
    elif order.service == "web":
        assert entry["drained"] + entry["forced"] == 1, "one connection was held"
    assert entry["started"] <= entry["finished"]


def _assert_works(world: World, service: str) -> None:
    to = world.other(service)
    result = world.proxy.operate("swap", service, version=to, deadline=0.1)
    assert result["to"] == to
    assert fetch(world.ports[service]).startswith(f"{to} {result['generation']} ")


@pytest.mark.parametrize("point", some(AROUND_THE_SWITCH, 1, 3))
def test_in_a_rollback_to_a_warm_generation(world: World, point: str) -> None:
    proxy, port = world.proxy, world.ports["cellar"]
    if len(proxy.service("cellar")["generations"]) < 2:
        proxy.operate("swap", "cellar", version=world.other("cellar"))
    generations = {each["state"]: each for each in proxy.service("cellar")["generations"]}
    old, warm = generations["active"], generations["warm"]
    order = Order(point, "cellar", warm["version"], warm["id"])
    workers, before = proxy.workers(), proxy.history("cellar")
    with Calm(port, 4) as load:
        proxy.die_in(order, "rollback")
        found = serving(port, workers)
        is_back = found == warm["id"]
        assert is_back == (point in SWITCHED)
        load.wait_for(20)
        proxy.start()
        assert serving(port, workers) == found
        load.wait_for(20)
        load.stop()
        assert not load.errors
    _assert_settled(world, "cellar", found)
    entry = _entry_since(world, "cellar", before, optional=False)
    assert entry
    _assert_truthful(entry, order, "rollback", old, is_new=is_back)
    pids = {each["id"]: [replica["pid"] for replica in each["replicas"]] for each in (old, warm)}
    after = {each["id"]: each for each in proxy.service("cellar")["generations"]}
    assert set(after) == set(pids), "the other one is warm"
    assert {number: [replica["pid"] for replica in each["replicas"]] for number, each in after.items()} == pids
    result = proxy.operate("rollback", "cellar")
    assert result["phases"]["start"] == 0, "it is warm still"


@pytest.mark.parametrize("point", some(["bake-begins", "baking", "switch-on-file"], 1))
def test_in_the_bake_time_of_a_version_that_is_well(world: World, point: str) -> None:
    """It goes on for the rest of its time; another swap ends it."""
    proxy, port = world.proxy, world.ports["oven"]
    order, before, workers = world.order(point, "oven"), proxy.history("oven"), proxy.workers()
    (old,) = (each["id"] for each in proxy.service("oven")["generations"] if each["state"] == "active")
    with Calm(port, 4) as load:
        proxy.die_in(order, "swap", version=order.version)
        assert serving(port, workers) == order.generation
        proxy.start()
        load.wait_for(20)
        load.stop()
        assert not load.errors
    generations = {each["state"]: each["id"] for each in proxy.service("oven")["generations"]}
    assert generations == {"active": order.generation, "draining": old}
    assert proxy.history("oven") == before, "it is not over"
    proxy.begin("swap", "oven", version=world.other("oven"))
    entry = eventually(lambda: proxy.history("oven")[len(before) :], what="the first one has ended")[0]
    assert (entry["result"], entry["generation"]) == ("swapped", order.generation)
    _go_back(world)


@pytest.mark.parametrize(
    ("point", "is_back"),
    some([
        ("before-undo", False), ("before-switch", False), ("held", False), ("decided", True),
        ("route-sent-to-one", True), ("undone", True), ("before-history", True), ("history-written", True),
    ], 2, 4, 7),
)  # fmt: skip
def test_in_going_back_from_a_version_that_fell_over(world: World, point: str, is_back: bool) -> None:
    """Died before the way back, the next control finds the same trouble, and goes back itself."""
    proxy, port = world.proxy, world.ports["oven"]
    old, before, workers = proxy.active("oven"), proxy.history("oven"), proxy.workers()
    began = proxy.begin("swap", "oven", version=world.other("oven"))
    eventually(lambda: proxy.active("oven")["id"] != old["id"], what="it has switched")
    new = proxy.active("oven")
    Order(point, "oven", old["version"], old["id"]).write(proxy.order)
    dead = kill(new["replicas"][0]["pid"])
    with Calm(port, 4) as load:
        proxy.wait_crash()
        if is_back:
            assert serving(port, workers) == old["id"]
        proxy.start()
        eventually(lambda: proxy.history("oven")[len(before) :], within=8, what="the swap has ended")
        load.wait_for(20)
        load.stop()
        assert not load.failed_since(dead)
    entry = _entry_since(world, "oven", before, optional=False)
    assert entry
    assert (entry["result"], entry["from"], entry["to"]) == ("rolled_back", old["version"], began["to"])
    assert serving(port, workers) == old["id"]
    _assert_settled(world, "oven", old["id"])


def _go_back(world: World) -> None:
    """End the bake that is under way: another operation does."""
    proxy = world.proxy
    eventually(lambda: proxy.service("oven")["operation"] is None, what="it has switched")
    new = proxy.active("oven")
    kill(new["replicas"][0]["pid"])
    eventually(
        lambda: (
            {each["id"] for each in proxy.service("oven")["generations"]} not in ({new["id"]}, set())
            and proxy.active("oven")["id"] != new["id"]
        ),
        what="it went back",
    )
    eventually(lambda: len(proxy.service("oven")["generations"]) == 1, what="the one that fell over is gone")


@pytest.mark.parametrize("point", some(["before-pause", "pause-sent-to-one", "paused", "pause-not-on-file"], 1, 3))
def test_in_a_pause(world: World, point: str) -> None:
    """A pause that nobody was told to have begun may be one, or not: but all workers are of one mind, and it ends."""
    proxy, port = world.proxy, world.ports["web"]
    with Held(port) as held:
        held.ask()
        Order(point, "web").write(proxy.order)
        proxy.ctl("pause", "--service", "web")
        proxy.wait_crash()
        assert held.ask()
        proxy.start(wait=False)
        proxy.wait_answer()
        state = proxy.service()["state"]
        with Held(port) as first, Held(port) as second:
            for client in (first, second):
                client.send()
            waits = [not client.has_answer() for client in (first, second)]
            assert waits == [state == "paused"] * 2
            proxy.ok("resume", "--service", "web")
            assert first.answer()
            assert second.answer()
        assert held.ask()
    proxy.assert_nothing_is_lost()


@pytest.mark.parametrize(
    "point",
    some(["reload-begins", "reload-binds", "reload-reconfigures", "reload-listens", "reload-adds", "reloaded"], 3, 5),
)
def test_in_a_reload(tmp_path: Path, point: str) -> None:
    """What was not applied is applied by the next start: it is in the file."""
    port, second, other = free_port(), free_port(), free_port()
    with Mortal(tmp_path, "workers = 2\n" + configs.service(port)) as proxy, Calm(port, 4) as load, Held(port) as held:
        held.ask()
        pids, workers = proxy.pids(), proxy.workers()
        public = [f"127.0.0.1:{port}", f"127.0.0.1:{second}"]
        proxy.write("workers = 2\n" + configs.service(public) + configs.service(other, name="other"))
        Order(point, "web").write(proxy.order)
        proxy.ctl("reload")
        proxy.wait_crash()
        load.wait_for(20)
        assert held.ask().startswith("v1 1 ")
        proxy.start()
        assert held.ask().startswith("v1 1 ")
        load.wait_for(20)
        for each in (port, second, other):
            Held(each, patient=True).close()
            assert fetch(each).startswith("v1 1 ")
        assert proxy.service()["listen"] == public
        assert (proxy.pids(), proxy.workers()) == (pids, workers)
        load.stop()
        assert not load.errors
        proxy.operate("swap", "other", version="v2")
        proxy.assert_nothing_is_lost()


@pytest.mark.parametrize(
    "point",
    some(["close-begins", "deaf", "ended", "deadline", "closed", "before-stop", "stopped", "service-closed"], 1, 4),
)
def test_in_a_stop(tmp_path: Path, point: str) -> None:
    """Then `run` again means what it says: it serves, whatever the stop had got to; nothing of before is left over."""
    port = free_port()
    with Mortal(tmp_path, "workers = 2\n" + configs.service(port, drain='deadline = "300ms"')) as proxy:
        with Held(port) as held:
            held.ask()
            Order(point, "web").write(proxy.order)
            os.kill(proxy.pid, signal.SIGTERM)
            proxy.wait_crash()
        proxy.start()
        load = Calm(port, 4)
        with load:
            load.wait_for(20)
            proxy.operate("swap", version="v2")
            load.wait_for(20)
        assert not load.errors
        assert [each["state"] for each in proxy.service()["generations"]] == ["active"]
        proxy.assert_nothing_is_lost()
        ours = [*proxy.known(), proxy.pid]
        proxy.ok("stop")
        assert proxy.process
        assert proxy.process.wait(10) == 0
        eventually(lambda: not [pid for pid in ours if is_alive(pid)], what="nothing of it runs")


@pytest.mark.parametrize(
    "point",
    some(["state-read", "one-worker-found", "workers-found", "judged", "backend-adopted", "workers-told",
          "service-added", "api-not-served"], 1, 4, 5),
)  # fmt: skip
@pytest.mark.parametrize("amid", ["nothing", "drain"])
def test_in_taking_over(world: World, point: str, amid: str) -> None:
    """A crash in the work after a crash."""
    proxy, port = world.proxy, world.ports["web"]
    with ExitStack() as stack:
        load = stack.enter_context(Calm(port, 4))
        kept = stack.enter_context(KeptLoad(world.ports["site"], 1))
        held = stack.enter_context(Held(port))
        held.ask()
        before = proxy.history("web")
        if amid == "drain":
            proxy.begin("swap", "web", version=world.other("web"), deadline="60s")
            eventually(lambda: proxy.service()["state"] == "draining", what="it drains")
        old, workers = proxy.service(), proxy.workers()
        proxy.crash()
        proxy.start(wait=False, point=point)
        proxy.wait_crash()
        assert held.ask()
        load.wait_for(20)
        proxy.start()
        assert held.ask()
        load.wait_for(20)
        kept.wait_for(5)
        load.stop()
        kept.stop()
        assert not load.errors
        assert not kept.errors
        now = proxy.service()
        assert _essentials(now) == _essentials(old)
        # Each process looks anew how far its own clock is from Unix time.
        assert _deadlines(now) == pytest.approx(_deadlines(old), abs=0.05)
        assert proxy.workers() == workers
        assert proxy.history("web") == before
    if amid == "drain":
        entry = _entry_since(world, "web", before, optional=False)
        assert entry
        assert (entry["result"], entry["drained"], entry["forced"]) == ("swapped", 1, 0)
    proxy.assert_nothing_is_lost()
    _assert_works(world, "web")


def _essentials(service: dict[str, Any]) -> list[Any]:
    """What a crash of control does not change."""
    return [_lasting(each) for each in service["generations"]]


def _lasting(generation: dict[str, Any]) -> list[Any]:
    drain = generation["drain"] or {}
    values = [generation[name] for name in ("id", "version", "state", "since", "replicas")]
    return values + [drain.get(name) for name in ("started", "initial")]


def _deadlines(service: dict[str, Any]) -> list[float]:
    return [each["drain"]["deadline"] for each in service["generations"] if each["drain"]]
