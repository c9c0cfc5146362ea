"""A service whose workers and generations the test plays: what competes for the switch, and who wins."""

from types import SimpleNamespace

import pytest
import trio

from proxy import wire
from proxy.config import Http, load
from proxy.config.marks import DEFAULT
from proxy.control import service as services
from proxy.control.audit import Audit
from proxy.control.ending import Ending
from proxy.control.events import Bus
from proxy.control.history import History
from proxy.control.open_connections import OpenConnections
from proxy.control.service import Service
from proxy.control.state import GenerationRecord
from proxy.control.state_file import StateFile
from proxy.control.steering import Steering
from proxy.control.traffic import Traffic
from proxy.core.requests import SwapRequest
from proxy.errors import StartError
from proxy.metrics import Metrics
from proxy.wire import Endpoint


class Pool:
    """The workers: they take every route, while `open`."""

    def __init__(self):
        self.traffic = Traffic()
        self.switched = []
        self.asked = trio.Event()
        self.open = trio.Event()
        self.open.set()

    async def add(self, route, listeners, *, accept):
        self.added = route
        await trio.lowlevel.checkpoint()

    async def listen(self, service, listeners, *, accept=True):
        await trio.lowlevel.checkpoint()

    async def route(self, route):
        self.asked.set()
        await self.open.wait()

    async def switch(self, route, *, also):
        await self.route(route)
        also()
        self.switched.append(route.generation)

    async def drained(self, service, generation, progress):
        await trio.lowlevel.checkpoint()

    async def close(self, service, generation):
        await trio.lowlevel.checkpoint()
        return 0

    def remaining(self, service, generation):
        return 0

    def hold(self):
        """From now on they do not answer, until `open` is set; `asked` is set by the first that waits for them."""
        self.open, self.asked = trio.Event(), trio.Event()


class Generation:
    """Healthy at once, and until the test calls `fall_over`."""

    inherits = False

    def __init__(self, number, settings, version, deps, *, candidate, public):
        self.id, self.settings, self.version = number, settings, version
        self.state = "starting"
        self.drain = None
        self.replicas = ()
        self.endpoints = (Endpoint(0, f"127.0.0.1:{number}"),)
        self.proven, self.in_trouble, self.revivable, self.was_signalled = True, False, True, False
        self.stopped = trio.Event()
        self._fell = trio.Event()

    async def run(self):
        await self.stopped.wait()

    async def launched(self):
        await trio.lowlevel.checkpoint()

    async def ready(self):
        await trio.lowlevel.checkpoint()

    def promote(self):
        if not self.endpoints:
            raise StartError("fell over")

    def retire(self):
        pass

    def set_state(self, state):
        self.state = state

    def changed(self):
        pass

    def record(self, departure):
        return GenerationRecord(id=self.id, version=self.version.name, state=self.state, departure=departure)

    def last_output(self):
        return ()

    def reconfigure(self, settings):
        self.settings = settings

    async def trouble(self):
        await self._fell.wait()
        return "it fell over"

    def fall_over(self):
        self.endpoints = ()
        self._fell.set()

    async def stop(self):
        await trio.lowlevel.checkpoint()
        self.stopped.set()


@pytest.fixture
async def service(tmp_path, nursery, monkeypatch):
    monkeypatch.setattr(services, "Generation", Generation)
    path = tmp_path / "proxy.toml"
    versions = "\n".join(f'[services.web.versions.v{number}]\ncommand = "unused"' for number in (1, 2, 3))
    path.write_text(
        f'[services.web]\nlisten = "127.0.0.1:0"\nactive = "v1"\n{versions}\n[services.web.drain]\nbake = "60s"\n'
    )
    pool = Pool()
    steering = Steering(tmp_path, DEFAULT, pool.traffic)
    deps = SimpleNamespace(
        config_path=path,
        state_dir=tmp_path,
        bus=Bus(),
        history=History(tmp_path / "history.jsonl"),
        audit=Audit(History(tmp_path / "audit.jsonl"), Bus()),
        metrics=Metrics(),
        pool=pool,
        steering=steering,
        open=OpenConnections(pool, steering),
        state=StateFile(tmp_path / "state.json"),
        ending=Ending(is_orderly=True),
    )
    service = Service(load(path).services["web"], deps)
    with trio.fail_after(10):
        await nursery.start(service.run)
        yield service
    nursery.cancel_scope.cancel()


async def swapped(service, version):
    """Swap, and return the operation when it bakes and the generation that now serves."""
    with service._deps.bus.subscribe() as events:
        operation = service.swap(SwapRequest(version))
        async for event in events:
            if event.get("phase") == "bake" and event["operation"] == operation.id:
                return operation, service.active
    raise AssertionError("no bake")


async def test_a_version_that_falls_over_while_it_bakes_gives_way(service):
    first = service.active
    operation, second = await swapped(service, "v2")
    second.fall_over()
    assert (await operation.wait())["result"] == "rolled_back"
    assert service.active is first
    assert service._deps.pool.switched == [2, 1]


async def test_a_failed_bake_does_not_take_a_newer_swap_back(service, nursery):
    """The newer one is next in line to switch when the one before falls over."""
    pool = service._deps.pool
    baking, second = await swapped(service, "v2")
    pool.hold()
    nursery.start_soon(service.pause)  # occupies the workers
    await pool.asked.wait()
    with service._deps.bus.subscribe() as events:
        newer = service.swap(SwapRequest("v3"))
        async for event in events:
            if event.get("phase") == "switch" and event["operation"] == newer.id:
                break
    assert newer.current == "switch", "it waits for its turn"
    second.fall_over()
    await trio.testing.wait_all_tasks_blocked()
    pool.open.set()
    assert (await baking.wait())["result"] == "swapped"
    await trio.testing.wait_all_tasks_blocked()
    assert service.active.version.name == "v3"
    assert pool.switched == [2, 3]


async def test_a_bake_that_fails_with_nothing_to_go_back_to_says_what_went_wrong(service):
    first = service.active
    operation, second = await swapped(service, "v2")
    first.endpoints, first.revivable = (), False
    second.fall_over()
    result = await operation.wait()
    assert (result["result"], result["error"]) == ("swapped", "it fell over")
    assert service.active is second


async def test_workers_know_how_to_treat_a_services_first_client_before_they_accept_it(service):
    added = service._deps.pool.added
    assert (added.generation, added.version, added.connect_timeout) == (1, "v1", 5.0)


async def test_workers_are_told_which_version_serves_and_how_requests_are_treated(service):
    assert service._route().http is None
    await swapped(service, "v2")
    http = Http(forwarded="replace", request_id=True, header_timeout=5)
    await service.reconfigure(service.settings.model_copy(update={"protocol": "http", "http": http}), {})
    route = service._route()
    assert (route.generation, route.version) == (2, "v2")
    assert route.http == wire.Http(header_timeout=5.0, forwarded="replace", request_id=True)
