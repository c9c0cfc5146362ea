"""The worker processes: told the listeners and routes, replaced at once when one dies."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import trio

from proxy import wire
from proxy.control import worker as workers
from proxy.control.ending import Ending
from proxy.control.link import LinkLostError, Pending
from proxy.control.shared_lock import SharedLock
from proxy.control.traffic import Traffic, name_of
from proxy.control.trouble import Troubles
from proxy.core.backoff import Backoff
from proxy.errors import ProxyError, WireError
from proxy.logs import facts

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from proxy.control.events import Bus
    from proxy.control.worker import Worker

log = logging.getLogger(__name__)

# A worker answers within its loop's turn, some milliseconds. One that takes this long is stuck and is replaced.
ANSWER_TIMEOUT = 5.0
START_TIMEOUT = 30.0
# One that only hangs, while nothing is asked of it but counts, may come to itself: its connections are at stake.
HANG_TIMEOUT = 30.0
# How often counts are fetched unasked: what a worker that is killed had counted since is lost.
COUNT_INTERVAL = 5.0


@dataclass
class _Plan:
    """What every worker, also one that starts later, is to know of a service. While a switch is under way, `hold` is
    the route that is to come, and the descriptor by which workers tell whether it does. Without `accept`, workers keep
    the listeners open, and backends accept on them.
    """

    listeners: dict[str, socket.socket]
    route: wire.Route
    hold: tuple[wire.Route, int] | None = None
    accept: bool = True


class WorkerPool:
    """All workers behave as one: a request is done when every living worker has done it.

    A worker that is started later begins with the newest plan of every service, so a request that a dying worker did
    not answer is carried out by its successor. Each has a place, from 0 to `count`; what is beside them, as long as it
    lives, is a worker that has just been relieved (relief.py), or was found and had no place any more.
    """

    def __init__(
        self,
        count: int,
        state_dir: Path,
        bus: Bus,
        log_format: str,
        access_log: Path | None = None,
        *,
        ending: Ending | None = None,
        troubles: Troubles | None = None,
    ) -> None:
        self._ending = ending or Ending(is_orderly=True)
        self._troubles = troubles or Troubles()
        self.count = count
        self.traffic = Traffic()
        self.on_change: Callable[[], None] = lambda: None
        self.lock = SharedLock()  # alone: while connections are on their way from one worker to another
        self._state_dir = state_dir
        self._bus = bus
        self._options = ["--log-format", log_format]
        if access_log:
            self._options += ["--access-log", str(access_log)]
        self._places: dict[int, Worker] = {}
        self._living: list[Worker] = []
        self._plans: dict[str, _Plan] = {}
        self._moved: dict[tuple[str, int], trio.Event] = defaultdict(trio.Event)

    @property
    def restarts(self) -> int:
        return self.traffic.restarts

    @property
    def workers(self) -> list[Worker]:
        """Those that live, by their places."""
        return sorted(self._living, key=lambda worker: worker.index)

    @property
    def surplus(self) -> list[Worker]:
        """Those that live and have no place."""
        return [worker for worker in self.workers if self._places.get(worker.index) is not worker]

    async def run(
        self, found: Iterable[Worker] = (), task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep `count` workers alive until cancelled; started when all of them are up.

        Those that were `found` go on, as many as there are places for; the others are the `surplus`.
        """
        async with trio.open_nursery() as self._nursery:
            surplus = self._seat(found)
            async with trio.open_nursery() as starting:
                for index in range(self.count):
                    starting.start_soon(self._nursery.start, self._keep, index, self._places.get(index))
                for worker in surplus:
                    starting.start_soon(self._nursery.start, self._keep, worker.index, worker)
            self._nursery.start_soon(self._count)
            task_status.started()

    def _seat(self, found: Iterable[Worker]) -> list[Worker]:
        """Give places to those that were found, first to those that accept; return those that get none."""
        surplus = []
        for worker in sorted(found, key=lambda worker: not any(worker.listening.values())):
            free = [index for index in range(self.count) if index not in self._places]
            if free:
                worker.index = worker.index if worker.index in free else free[0]
                self._places[worker.index] = worker
            else:
                surplus.append(worker)
        return surplus

    # What services ask for.

    async def add(self, route: wire.Route, listeners: dict[str, socket.socket], *, accept: bool = True) -> None:
        """Take up a service. Its policy comes first: who connects before it would be taken for any TCP client."""
        self._plans[route.service] = _Plan({}, route)
        await self.route(route)
        await self.listen(route.service, listeners, accept=accept)

    async def listen(self, service: str, listeners: dict[str, socket.socket], *, accept: bool = True) -> None:
        """Accept on exactly these listeners, keyed by address, by the policy that there is; or only keep them open."""
        plan = self._plans.setdefault(service, _Plan({}, wire.Route(0, service, 0)))
        plan.listeners, plan.accept = dict(listeners), accept
        async with self.lock.shared():
            await self._answers([each for worker in self.workers for each in self._post_listeners(worker, service)])

    async def route(self, route: wire.Route) -> None:
        """Replace the policy of a service on every worker; nothing happens for one that was forgotten."""
        if route.service not in self._plans:
            return
        async with self.lock.shared():
            self._plans[route.service].route = route
            await self._all(partial(self._post_route, route))

    async def switch(self, route: wire.Route, *, also: Callable[[], None] = lambda: None) -> None:
        """Replace the policy in one step: between the first worker's change and the last one's, new connections wait.

        Without that, a client could meet the new generation on one worker and the old one again on the next. And
        whatever becomes of this process on the way: workers that are left alone all look at the same byte. `also` is
        called in the same instant, for what else decides where connections go.
        """
        plan = self._plans[route.service]
        with trio.CancelScope(shield=True), _decision() as descriptor:
            async with self.lock.shared():
                plan.hold = route, descriptor
                await self._all(partial(self._post_hold, plan.hold))
                os.pwrite(descriptor, b"1", 0)
                also()
                plan.route, plan.hold = route, None
                await self._all(partial(self._post_route, route))

    async def close(self, service: str, generation: int) -> int:
        """Close what a generation still has open; returns how many connections that were."""
        async with self.lock.shared():
            acks = await self._all(lambda worker: worker.link.post(lambda seq: wire.Close(seq, service, generation)))
        return sum(ack.forced for ack in acks)

    async def forget(self, service: str, generation: int = 0) -> None:
        """Drop the counters of a generation, or with 0 the service and everything of it."""
        if not generation:
            self._plans.pop(service, None)
        async with self.lock.shared():
            await self._all(lambda worker: worker.link.post(lambda seq: wire.Forget(seq, service, generation)))
        self.traffic.forget(service, generation)
        self._moved.pop((service, generation), None)

    def remaining(self, service: str, generation: int) -> int:
        return sum(worker.remaining.get((service, generation), 0) for worker in self._living)

    async def drained(self, service: str, generation: int, progress: Callable[[int], None]) -> None:
        """Wait until no worker has a connection of a generation; `progress` is told each change on the way."""
        key = (service, generation)
        while left := self.remaining(*key):
            progress(left)
            moved = self._moved[key]
            await moved.wait()
        progress(0)

    async def refresh(self, patience: float = 1.0) -> None:
        """Fetch every count. A worker that does not answer in time keeps the counts it last gave."""
        with trio.move_on_after(patience):
            await self._all(lambda worker: worker.link.post(wire.Snapshot))

    # What relief asks for.

    def holder(self, index: int) -> Worker | None:
        """The worker in a place."""
        return self._places.get(index)

    def vacate(self, index: int) -> None:
        """Leave a place empty for now: who had it is kept as long as it lives, and not replaced."""
        self._places.pop(index, None)

    def seat(self, index: int, worker: Worker) -> None:
        """Give an empty place to a worker, or to the next one if it has ended meanwhile."""
        if worker.ended.is_set():
            self._nursery.start_soon(self._keep, index, None)
        else:
            self._places[index] = worker

    async def start_beside(self, index: int) -> Worker:
        """Start another worker for a place that is taken. It is told the routes, but gets no listeners.

        Raises OSError, or ProxyError when it does not get ready.
        """
        worker = await workers.start(index, self._state_dir, self._options, self._troubles)
        worker.is_deaf = True
        self._nursery.start_soon(self._keep, index, worker)
        await _first(worker.served, worker.ended)
        if worker.link.lost:
            raise ProxyError(f"a new worker, pid {worker.pid}, did not get ready")
        return worker

    async def tell(self, worker: Worker) -> None:
        """Bring a worker up to date with the plans, and its account of connections that remain with it."""
        await self._answers([each for service in self._plans for each in self._post_plan(worker, service)])

    async def take_counts(self, worker: Worker) -> None:
        """Fetch every count of one worker."""
        await self._answers([(worker, worker.link.post(wire.Snapshot))])

    async def forget_unknown(self) -> None:
        """Drop services that workers were found with, and that there are no more."""
        known = self._plans.keys()
        await self._answers(
            [
                (worker, worker.link.post(partial(wire.Forget, service=name)))
                for worker in self.workers
                for name in worker.serving.keys() - known
            ]
        )

    # One worker's life.

    async def _keep(
        self, index: int, worker: Worker | None, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Have a worker, `worker` to begin with, until it ends without being missed; replace it when it is."""
        backoff = Backoff(limit=1.0)  # a worker has no slow start of its own, and clients wait
        ready: Callable[[], None] = task_status.started
        has_place = worker is None or self._places.get(index) is worker
        while True:
            began = trio.current_time()
            try:
                worker = worker or await workers.start(index, self._state_dir, self._options, self._troubles)
            except OSError as error:
                if ready is not _nothing:
                    raise ProxyError(f"cannot start a worker: {error.strerror or error}") from error
                log.error("cannot start a worker", extra=facts(reason=error.strerror or error))
                await trio.sleep(backoff.next_delay())
                continue
            if has_place:
                self._places[index] = worker
            await self._live(worker, ready)
            if worker.served.is_set():
                ready = _nothing
            if self._places.get(index) is not worker:
                ready()
                return
            has_place = True
            self.traffic.restarted()
            log.error("worker died; replacing it", extra=facts(pid=worker.pid, status=worker.process.returncode))
            self._bus.publish("worker", state="died", pid=worker.pid, worker=index)
            self.on_change()
            worker = None
            await trio.sleep(backoff.next_delay(trio.current_time() - began))

    async def _live(self, worker: Worker, ready: Callable[[], None]) -> None:
        """Stay with a worker until it is gone, or until this process is."""
        worker.meet(self._heard)
        self.traffic.join(worker, name_of(worker.identity))
        is_over = False
        try:
            await self._serve(worker, ready)
            is_over = True
        finally:
            if is_over or self._ending.is_orderly:
                await self._end(worker)

    async def _end(self, worker: Worker) -> None:
        # Bytes and connections are the kernel's business; a worker has nothing to save by a gentler end.
        worker.process.kill()
        worker.link.close()
        if worker in self._living:
            self._living.remove(worker)
        self.traffic.retire(worker)
        for key in tuple(worker.remaining):
            self._set_remaining(worker, *key, 0)
        with trio.CancelScope(shield=True):
            await worker.process.wait()
        worker.forget_socket()
        worker.ended.set()

    async def _serve(self, worker: Worker, ready: Callable[[], None]) -> None:
        """Tell a worker everything, count it in, and stay with it until it is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, worker, nursery.cancel_scope)
            with trio.move_on_after(START_TIMEOUT):
                await worker.booted.wait()
            if not worker.booted.is_set():
                log.error("worker does not get ready; killing it", extra=facts(pid=worker.pid))
                nursery.cancel_scope.cancel()
                return
            asked = [each for service in self._plans for each in self._post_plan(worker, service)]
            # No await since the plans were read: whatever is asked of all workers from now on is asked of this one too.
            self._living.append(worker)
            await self._answers(asked)
            if worker.link.lost:
                return
            self._bus.publish("worker", state="started", pid=worker.pid, worker=worker.index)
            self.on_change()
            worker.served.set()
            ready()

    async def _carry(self, worker: Worker, scope: trio.CancelScope) -> None:
        try:
            await worker.link.run()
        except* WireError as errors:
            reason = "; ".join(map(str, errors.exceptions))
            log.error("worker does not make sense", extra=facts(pid=worker.pid, reason=reason))
        scope.cancel()

    # What a worker is told.

    def _post_plan(self, worker: Worker, service: str) -> list[tuple[Worker, Pending]]:
        plan = self._plans[service]
        # The route first: a connection that is accepted before it would wait for nothing.
        posted = [(worker, self._post_route(plan.route, worker))]
        if plan.hold:
            posted.append((worker, self._post_hold(plan.hold, worker)))
        return posted + self._post_listeners(worker, service)

    def _post_route(self, route: wire.Route, worker: Worker) -> Pending:
        mine = self._part(route, worker)

        def heard(ack: wire.Ack) -> None:
            others = {gen: count for gen, count in ack.connections.items() if gen != route.generation}
            for key in [key for key in worker.remaining if key[0] == route.service and key[1] not in others]:
                del worker.remaining[key]
                self._notify(key)
            for generation, count in others.items():
                self._set_remaining(worker, route.service, generation, count)

        return worker.link.post(lambda seq: replace(mine, seq=seq), on_ack=heard)

    def _post_hold(self, hold: tuple[wire.Route, int], worker: Worker) -> Pending:
        route, descriptor = hold
        mine = self._part(route, worker)
        return worker.link.post(lambda seq: wire.Hold(seq, route.service, mine), [descriptor])

    def _post_listeners(self, worker: Worker, service: str) -> list[tuple[Worker, Pending]]:
        """Bring a worker's listeners of a service up to date."""
        if worker.is_deaf:
            return []
        plan = self._plans[service]
        wanted, has = plan.listeners, worker.listening.get(service, set())
        is_anew = worker.accepting.get(service) != plan.accept
        added = {name: listener for name, listener in wanted.items() if name not in has or is_anew}
        removed = tuple(name for name in has if name not in wanted)
        worker.listening[service], worker.accepting[service] = set(wanted), plan.accept
        posted = [_post_listen(service, chunk, worker, accept=plan.accept) for chunk in _chunks(added)]
        if removed:
            posted.insert(0, worker.link.post(lambda seq: wire.Listen(seq, service, remove=removed)))
        return [(worker, each) for each in posted]

    def _part(self, route: wire.Route, worker: Worker) -> wire.Route:
        """A route as one worker is to follow it: with its part of the limit, such that the parts add up."""
        total = route.max_connections
        if total is None:
            return route
        return replace(route, max_connections=self._share(total, worker.index % self.count))

    def _share(self, total: int, index: int) -> int:
        return total // self.count + (index < total % self.count)

    # What workers say.

    def _heard(self, worker: Worker, message: wire.Message) -> None:
        if isinstance(message, wire.Hello):
            worker.release = message.release
            worker.booted.set()
        elif isinstance(message, wire.Remaining):
            self._set_remaining(worker, message.service, message.generation, message.connections)
        elif isinstance(message, wire.Counts):
            self.traffic.record(worker, message)

    def _set_remaining(self, worker: Worker, service: str, generation: int, count: int) -> None:
        key = (service, generation)
        if count:
            worker.remaining[key] = count
        else:
            worker.remaining.pop(key, None)
        self._notify(key)

    def _notify(self, key: tuple[str, int]) -> None:
        moved = self._moved.pop(key, None)
        if moved is not None:
            moved.set()

    async def _all(self, post: Callable[[Worker], Pending]) -> list[wire.Ack]:
        return await self._answers([(worker, post(worker)) for worker in self.workers])

    async def _answers(
        self, asked: Sequence[tuple[Worker, Pending]], patience: float = ANSWER_TIMEOUT
    ) -> list[wire.Ack]:
        """Wait for every worker's answer; a stuck worker is killed, its successor begins with the newest plan."""
        acks = []
        with trio.move_on_after(patience) as scope:
            for worker, pending in asked:
                with suppress(LinkLostError):
                    ack = await pending.wait()
                    acks.append(ack)
                    if ack.error:
                        log.error("worker refused a request", extra=facts(pid=worker.pid, reason=ack.error))
        if scope.cancelled_caught:
            for worker in {worker for worker, pending in asked if not pending.done.is_set()}:
                log.error("worker does not answer; killing it", extra=facts(pid=worker.pid))
                worker.process.kill()
                await worker.process.wait()
        return acks

    async def _count(self) -> None:
        while True:
            await trio.sleep(COUNT_INTERVAL)
            asked = [(worker, worker.link.post(wire.Snapshot)) for worker in self.workers]
            await self._answers(asked, HANG_TIMEOUT)


@contextmanager
def _decision() -> Iterator[int]:
    """A byte that all workers can read, 0 at first (memfd_create(2))."""
    descriptor = os.memfd_create("switch", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, b"0")
        yield descriptor
    finally:
        os.close(descriptor)


async def _first(*events: trio.Event) -> None:
    """Wait until one of them is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)


def _post_listen(service: str, listeners: Mapping[str, socket.socket], worker: Worker, *, accept: bool) -> Pending:
    descriptors = [listener.fileno() for listener in listeners.values()]
    return worker.link.post(lambda seq: wire.Listen(seq, service, tuple(listeners), accept=accept), descriptors)


def _chunks(listeners: Mapping[str, socket.socket]) -> Iterator[dict[str, socket.socket]]:
    """As many as one message can carry."""
    rest = iter(listeners.items())
    while chunk := dict(islice(rest, wire.MAX_FDS)):
        yield chunk


def _nothing() -> None:
    """A worker that replaces another has nobody waiting for its start."""
