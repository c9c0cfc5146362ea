"""A generation whose backends the test plays, on a clock of its own."""

import errno
import os
from types import SimpleNamespace

import pytest
import trio

from proxy import wire
from proxy.control import generation as generations
from proxy.control.ending import Ending
from proxy.control.events import Bus
from proxy.control.exits import Exit
from proxy.control.generation import Generation
from proxy.control.ports import Ports
from proxy.control.trouble import Troubles
from proxy.core.address import Address
from proxy.errors import StartError
from proxy.metrics import Metrics
from tests.control.world import World


class Target:
    """A backend that is well until the test lets it die."""

    address = Address(host="127.0.0.1", port=1)
    pid = 0

    def __init__(self):
        self.died = trio.Event()

    async def exited(self):
        await self.died.wait()
        return Exit(-9)


class Backends:
    """Starts targets; the next starts raise what is in `failures`."""

    def __init__(self):
        self.started = []
        self.failures = []

    async def start(self, *_, **__):
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        self.started.append(Target())
        return self.started[-1]


@pytest.fixture
def backends(monkeypatch):
    played = Backends()

    async def healthy(*_, **__):
        await trio.lowlevel.checkpoint()

    async def watch(*_, **__):
        await trio.sleep_forever()

    monkeypatch.setattr(generations.backends, "start", played.start)
    monkeypatch.setattr(generations.prober, "wait_healthy", healthy)
    monkeypatch.setattr(generations.prober, "watch", watch)
    return played


@pytest.fixture
def make(tmp_path, nursery, backends):
    def make(*, replicas=1, candidate=True):
        settings, version = World(tmp_path).service("unused", replicas=replicas)
        deps = SimpleNamespace(
            state_dir=tmp_path,
            ports=Ports(),
            bus=Bus(),
            metrics=Metrics(),
            troubles=Troubles(),
            ending=Ending(is_orderly=True),
        )
        made = Generation(1, settings, version, deps, candidate=candidate, public={})
        nursery.start_soon(made.run)
        return made

    return make


def exhausted():
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_a_swap_without_a_free_descriptor_fails_and_says_why_and_control_lives(make, backends):
    backends.failures = [exhausted()]
    candidate = make()
    with trio.fail_after(5), pytest.raises(StartError, match="Too many open files") as caught:
        await candidate.ready()
    assert "doctor" in caught.value.hint
    await candidate.stop()


async def test_a_backend_that_cannot_be_restarted_for_want_of_descriptors_is_tried_until_it_can(
    autojump_clock, make, backends, caplog
):
    serving = make(candidate=False)
    await serving.ready()
    backends.failures = [exhausted(), exhausted()]
    backends.started[0].died.set()
    with trio.fail_after(60):
        await serving._until(lambda: len(backends.started) == 2 and bool(serving.endpoints))
    assert caplog.messages.count("backend did not become healthy") == 2
    assert not backends.failures


async def test_a_generation_that_was_called_back_has_all_its_replicas_again(autojump_clock, make, backends):
    generation = make(replicas=2)
    await generation.ready()
    generation.promote()
    generation.retire()
    backends.started[0].died.set()
    await trio.sleep(100)
    assert len(backends.started) == 2, "while it is warm, what dies is gone"
    generation.promote()
    with trio.fail_after(60):
        await generation.ready()
    assert len(backends.started) == 3
    assert sorted(replica.restarts for replica in generation.replicas) == [0, 1]


async def test_a_warm_generation_whose_replicas_all_died_has_nothing_to_go_back_to(autojump_clock, make, backends):
    generation = make(replicas=2)
    await generation.ready()
    generation.promote()
    generation.retire()
    for target in backends.started:
        target.died.set()
    with trio.fail_after(60):
        await generation.died_out()
    with pytest.raises(StartError, match="no replica of generation 1"):
        generation.promote()


async def test_the_status_says_how_many_requests_are_in_flight_where_that_is_known(autojump_clock, make):
    generation = make()
    await generation.ready()
    counts = wire.GenerationCounts(active=5, in_flight=2)
    described = generation.describe(counts, knows_requests=True)
    assert (described["connections"], described["in_flight"]) == (5, 2)
    assert generation.describe(counts, knows_requests=False)["in_flight"] is None
