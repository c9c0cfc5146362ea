"""How a generation leaves, on a clock of the test's own: no socket, no process, no waiting."""

from types import SimpleNamespace

import pytest
import trio
import trio.testing

from proxy.control.drain import Departure
from proxy.control.events import Bus
from proxy.control.operation import Operation
from proxy.metrics import Metrics


class Connections:
    """Workers and kernel: `open` connections, which `leave` takes away."""

    def __init__(self, connections: int) -> None:
        self.open = connections
        self.all_accepted = trio.Event()
        self.all_accepted.set()
        self._moved = trio.Event()

    def leave(self, count: int) -> None:
        self.open -= count
        self._moved.set()
        self._moved = trio.Event()

    async def remaining(self, service, generation):
        return self.open

    async def settled(self, service, generation):
        await self.all_accepted.wait()

    async def drained(self, service, generation, progress):
        while self.open:
            progress(self.open)
            await self._moved.wait()

    async def close(self, service, generation):
        forced, self.open = self.open, 0
        return forced


class Generation:
    id = 1
    inherits = False
    version = SimpleNamespace(name="v1")

    def __init__(self, **drain) -> None:
        values = {"keep_warm": 0.0, "signal_at": None, **drain}
        self.settings = SimpleNamespace(name="web", datapath="steer", drain=SimpleNamespace(**values))
        self.drain = None
        self.state = "active"
        self.said_goodbye_at = None
        self.stopped_at = None
        self.revivable = True
        self.was_signalled = False
        self.ended = trio.Event()

    def retire(self):
        pass

    def set_state(self, state):
        self.state = state

    def changed(self):
        pass

    def say_goodbye(self):
        self.said_goodbye_at = trio.current_time()

    async def died_out(self):
        await self.ended.wait()

    async def stop(self):
        self.state = "stopping"
        self.stopped_at = trio.current_time()
        self.ended.set()


@pytest.fixture
def story(nursery):
    """Begin a departure; times are seconds since then."""

    def begin(connections=0, limit=30.0, *, released=True, steered=False, **drain):
        generation, pool = Generation(**drain), Connections(connections)
        steering = SimpleNamespace(has=lambda *_: steered)
        deps = SimpleNamespace(open=pool, steering=steering, metrics=Metrics(), bus=Bus())
        operation = Operation(1, "swap", "web", "v1", "v2", deps)
        departure = Departure(generation, limit, operation, deps)
        if released:
            departure.release()
        departure.began = trio.current_time()
        nursery.start_soon(departure.run)
        return departure, generation, pool

    return begin


async def test_a_generation_without_connections_is_stopped_at_once(autojump_clock, story):
    departure, generation, _ = story(connections=0)
    await departure.gone.wait()
    assert generation.stopped_at == departure.began
    assert (departure.drained, departure.forced) == (0, 0)


async def test_the_drain_ends_with_the_last_connection_and_not_at_the_deadline(autojump_clock, story):
    departure, generation, pool = story(connections=3)
    await trio.sleep(5)
    pool.leave(1)
    await trio.sleep(5)
    assert generation.state == "draining"
    assert generation.drain.remaining == 2
    pool.leave(2)
    await departure.gone.wait()
    assert generation.stopped_at - departure.began == pytest.approx(10)
    assert (departure.drained, departure.forced) == (3, 0)


async def test_what_never_ends_is_cut_at_the_deadline_and_counted(autojump_clock, story):
    departure, generation, pool = story(connections=3, limit=30)
    await trio.sleep(1)
    pool.leave(1)
    await departure.gone.wait()
    assert generation.stopped_at - departure.began == pytest.approx(30)
    assert (departure.drained, departure.forced) == (1, 2)


async def test_a_deadline_of_zero_closes_at_once(autojump_clock, story):
    departure, generation, _ = story(connections=2, limit=0)
    await departure.gone.wait()
    assert (generation.stopped_at - departure.began, departure.forced) == (0, 2)


async def test_a_backend_that_says_goodbye_itself_hears_at_the_start(autojump_clock, story):
    departure, generation, pool = story(connections=1, signal_at="start")
    await trio.sleep(3)
    assert generation.said_goodbye_at == departure.began
    pool.leave(1)
    await departure.gone.wait()


async def test_a_steered_backend_hears_at_the_start_as_only_it_can_say_goodbye(autojump_clock, story):
    departure, generation, pool = story(connections=1, steered=True)
    await trio.sleep(3)
    assert generation.said_goodbye_at == departure.began + 1
    pool.leave(1)
    await departure.gone.wait()


async def test_short_requests_are_answered_before_a_steered_backend_hears_that_it_is_to_end(autojump_clock, story):
    departure, generation, pool = story(connections=3, steered=True)
    await trio.sleep(0.5)
    pool.leave(3)
    await departure.gone.wait()
    assert generation.said_goodbye_at is None
    assert generation.stopped_at == departure.began + 0.5


async def test_a_steered_backend_that_would_cut_its_clients_hears_at_the_end_where_the_config_says_so(
    autojump_clock, story
):
    departure, generation, pool = story(connections=1, steered=True, signal_at="end")
    await trio.sleep(3)
    assert generation.said_goodbye_at is None
    pool.leave(1)
    await departure.gone.wait()


async def test_who_waits_in_the_queue_of_a_backend_is_accepted_before_it_is_told_to_leave(autojump_clock, story):
    departure, generation, pool = story(connections=1, steered=True)
    pool.all_accepted = trio.Event()
    await trio.sleep(3)
    assert generation.said_goodbye_at is None
    pool.all_accepted.set()
    await trio.sleep(2)
    assert generation.said_goodbye_at == departure.began + 4
    pool.leave(1)
    await departure.gone.wait()


async def test_nothing_is_stopped_or_told_to_leave_while_the_new_version_bakes(autojump_clock, story):
    departure, generation, _ = story(connections=0, released=False, signal_at="start")
    await trio.sleep(100)
    assert (generation.stopped_at, generation.said_goodbye_at) == (None, None)
    departure.release()
    await departure.gone.wait()
    assert generation.stopped_at - departure.began == pytest.approx(100)


async def test_a_warm_generation_stays_that_long_and_the_swap_does_not_wait_for_it(autojump_clock, story):
    departure, generation, _ = story(keep_warm=60.0)
    await departure.over.wait()
    assert generation.state == "warm"
    await departure.gone.wait()
    assert generation.stopped_at - departure.began == pytest.approx(60)


@pytest.mark.parametrize("after", [1.0, 40.0])
async def test_a_generation_that_drains_or_is_warm_can_be_called_back(autojump_clock, story, after):
    departure, generation, _ = story(connections=0 if after > 30 else 2, keep_warm=60.0)
    await trio.sleep(after)
    assert departure.revive()
    await departure.gone.wait()
    assert generation.stopped_at is None
    assert generation.drain is None


async def test_connections_that_came_back_with_it_are_not_counted_as_drained(autojump_clock, story):
    departure, _, pool = story(connections=5)
    await trio.sleep(1)
    pool.leave(2)
    await trio.sleep(1)
    assert departure.revive()
    await departure.gone.wait()
    assert (departure.drained, departure.forced) == (2, 0)


async def test_a_generation_that_was_told_to_leave_is_not_called_back(autojump_clock, story):
    departure, generation, pool = story(connections=1)
    generation.revivable = False
    assert not departure.revive()
    pool.leave(1)
    await departure.gone.wait()
    assert not departure.revive()


@pytest.mark.parametrize("drain", [{}, {"keep_warm": 60.0}])
async def test_hurry_makes_the_deadline_now(autojump_clock, story, drain):
    departure, generation, _ = story(connections=2, released=False, **drain)
    await trio.sleep(4)
    departure.hurry()
    await departure.gone.wait()
    assert generation.stopped_at - departure.began == pytest.approx(4)
    assert departure.forced == 2
