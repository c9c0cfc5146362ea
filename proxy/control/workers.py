"""The worker processes: started, told the listeners and routes, replaced at once when one dies."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import trio

from proxy import wire
from proxy.control import reaper
from proxy.control.link import Link, LinkLostError, Pending
from proxy.control.mark import SUPERVISOR, supervisor
from proxy.control.traffic import Traffic
from proxy.core.backoff import Backoff
from proxy.errors import ProxyError, WireError
from proxy.kernel import unixpath
from proxy.logs import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from proxy.control.events import Bus

log = logging.getLogger(__name__)

# A worker answers within its loop's turn, some milliseconds. One that takes this long is stuck and is replaced.
ANSWER_TIMEOUT = 5.0
START_TIMEOUT = 30.0
# One that only hangs, while nothing is asked of it but counts, may come to itself: its connections are at stake.
HANG_TIMEOUT = 30.0
# How often counts are fetched unasked: what a worker that is killed had counted since is lost.
COUNT_INTERVAL = 5.0
_COMMAND = (sys.executable, "-P", "-m", "proxy.relay")


@dataclass(eq=False)
class Worker:
    """A running worker. `remaining` holds the connections of generations that no longer are the active one."""

    index: int
    process: trio.Process
    link: Link = field(init=False)
    booted: trio.Event = field(default_factory=trio.Event)
    served: bool = False
    remaining: dict[tuple[str, int], int] = field(default_factory=dict)


@dataclass
class _Plan:
    """What every worker, also one that starts later, is to know of a service."""

    listeners: dict[str, socket.socket]
    route: wire.Route


class WorkerPool:
    """All workers behave as one: a request is done when every living worker has done it.

    A worker that is started later begins with the newest plan of every service, so a request that a dying worker did
    not answer is carried out by its successor.
    """

    def __init__(self, count: int, state_dir: Path, bus: Bus, log_format: str, access_log: Path | None = None) -> None:
        self.count = count
        self.restarts = 0
        self.traffic = Traffic()
        self.on_change: Callable[[], None] = lambda: None
        self._state_dir = state_dir
        self._folder = state_dir / "workers"
        self._bus = bus
        self._options = ["--log-format", log_format]
        if access_log:
            self._options += ["--access-log", str(access_log)]
        self._workers: dict[int, Worker] = {}
        self._plans: dict[str, _Plan] = {}
        self._moved: dict[tuple[str, int], trio.Event] = defaultdict(trio.Event)

    @property
    def workers(self) -> list[Worker]:
        return [self._workers[index] for index in sorted(self._workers)]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep `count` workers alive until cancelled; started when all of them are up."""
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as starting:
                for index in range(self.count):
                    starting.start_soon(nursery.start, self._keep, index)
            nursery.start_soon(self._count)
            task_status.started()

    # What services ask for.

    async def add(self, route: wire.Route, listeners: dict[str, socket.socket]) -> None:
        """Take up a service. Its policy comes first: who connects before it would be taken for any TCP client."""
        self._plans[route.service] = _Plan({}, route)
        await self.route(route)
        await self.listen(route.service, listeners)

    async def listen(self, service: str, listeners: dict[str, socket.socket]) -> None:
        """Accept on exactly these listeners, keyed by address, by the policy that there is."""
        plan = self._plans.setdefault(service, _Plan({}, wire.Route(0, service, 0)))
        added = {name: listener for name, listener in listeners.items() if name not in plan.listeners}
        removed = tuple(name for name in plan.listeners if name not in listeners)
        plan.listeners = dict(listeners)
        await self._all(lambda worker: worker.link.post(lambda seq: wire.Listen(seq, service, remove=removed)))
        for chunk in _chunks(added):
            await self._all(partial(_post_listen, service, chunk))

    async def route(self, route: wire.Route) -> None:
        """Replace the policy of a service on every worker; nothing happens for one that was forgotten."""
        if route.service not in self._plans:
            return
        self._plans[route.service].route = route
        await self._all(lambda worker: self._post_route(worker, route))

    async def switch(self, route: wire.Route) -> None:
        """Replace the policy in one step: between the first worker's change and the last one's, new connections wait.

        Without that, a client could meet the new generation on one worker and the old one again on the next.
        """
        with trio.CancelScope(shield=True):
            await self.route(replace(self._plans[route.service].route, held=True))
            await self.route(route)

    async def close(self, service: str, generation: int) -> int:
        """Close what a generation still has open; returns how many connections that were."""
        acks = await self._all(lambda worker: worker.link.post(lambda seq: wire.Close(seq, service, generation)))
        return sum(ack.forced for ack in acks)

    async def forget(self, service: str, generation: int = 0) -> None:
        """Drop the counters of a generation, or with 0 the service and everything of it."""
        if not generation:
            self._plans.pop(service, None)
        await self._all(lambda worker: worker.link.post(lambda seq: wire.Forget(seq, service, generation)))
        self.traffic.forget(service, generation)
        self._moved.pop((service, generation), None)

    def remaining(self, service: str, generation: int) -> int:
        return sum(worker.remaining.get((service, generation), 0) for worker in self._workers.values())

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

    # One worker's life.

    async def _keep(self, index: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        backoff = Backoff(limit=1.0)  # a worker has no slow start of its own, and clients wait
        ready: Callable[[], None] = task_status.started
        while True:
            began = trio.current_time()
            try:
                worker = await self._start(index)
            except OSError as error:
                if ready is not _nothing:
                    raise ProxyError(f"cannot start a worker: {error.strerror or error}") from error
                log.error("cannot start a worker", extra=facts(reason=error.strerror or error))
                await trio.sleep(backoff.next_delay())
                continue
            try:
                await self._serve(worker, ready)
            finally:
                # Bytes and connections are the kernel's business; a worker has nothing to save by a gentler end.
                worker.process.kill()
                worker.link.close()
                self._workers.pop(index, None)
                self.traffic.retire(worker)
                for key in tuple(worker.remaining):
                    self._set_remaining(worker, *key, 0)
                with trio.CancelScope(shield=True):
                    await worker.process.wait()
                self._socket_path(index).unlink(missing_ok=True)
            if worker.served:
                ready = _nothing
            self.restarts += 1
            log.error(
                "worker died; replacing it", extra=facts(pid=worker.process.pid, status=worker.process.returncode)
            )
            self._bus.publish("worker", state="died", pid=worker.process.pid, worker=index)
            self.on_change()
            await trio.sleep(backoff.next_delay(trio.current_time() - began))

    async def _start(self, index: int) -> Worker:
        """Start a process that listens on a socket of its own, and connect: the kernel lets us, before it is ready."""
        path = self._socket_path(index)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # somebody may have tidied up
        path.unlink(missing_ok=True)
        # Shielded: a process that was started must not be lost to a cancellation. Nothing in it waits for the worker.
        with (
            trio.CancelScope(shield=True),
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
            unixpath.reachable(path) as name,
        ):
            listener.bind(name)
            path.chmod(0o600)
            listener.listen(1)
            process = await reaper.spawn(
                [*_COMMAND, "--fd", str(listener.fileno()), *self._options],
                pass_fds=[listener.fileno()],
                env={**os.environ, SUPERVISOR: supervisor(self._state_dir)},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            stream = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            await stream.connect(name)
        worker = Worker(index, process)
        worker.link = Link(stream, partial(self._heard, worker))
        return worker

    def _socket_path(self, index: int) -> Path:
        return self._folder / f"{index}.sock"

    async def _serve(self, worker: Worker, ready: Callable[[], None]) -> None:
        """Tell a worker everything, count it in, and stay with it until it is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, worker, nursery.cancel_scope)
            with trio.move_on_after(START_TIMEOUT):
                await worker.booted.wait()
            if not worker.booted.is_set():
                log.error("worker does not get ready; killing it", extra=facts(pid=worker.process.pid))
                nursery.cancel_scope.cancel()
                return
            asked = [(worker, posted) for service in self._plans for posted in self._post_plan(worker, service)]
            # No await since the plans were read: whatever is asked of all workers from now on is asked of this one too.
            self._workers[worker.index] = worker
            await self._answers(asked)
            if worker.link.lost:
                return
            self._bus.publish("worker", state="started", pid=worker.process.pid, worker=worker.index)
            self.on_change()
            worker.served = True
            ready()

    async def _carry(self, worker: Worker, scope: trio.CancelScope) -> None:
        try:
            await worker.link.run()
        except* WireError as errors:
            reason = "; ".join(map(str, errors.exceptions))
            log.error("worker does not make sense", extra=facts(pid=worker.process.pid, reason=reason))
        scope.cancel()

    def _post_plan(self, worker: Worker, service: str) -> list[Pending]:
        plan = self._plans[service]
        # The route first: a connection that is accepted before it would wait for nothing.
        route = self._post_route(worker, plan.route)
        return [route, *(_post_listen(service, chunk, worker) for chunk in _chunks(plan.listeners))]

    def _post_route(self, worker: Worker, route: wire.Route) -> Pending:
        mine = replace(route, max_connections=self._share(route.max_connections, worker.index))

        def heard(ack: wire.Ack) -> None:
            others = {gen: count for gen, count in ack.connections.items() if gen != route.generation}
            for key in [key for key in worker.remaining if key[0] == route.service and key[1] not in others]:
                del worker.remaining[key]
                self._notify(key)
            for generation, count in others.items():
                self._set_remaining(worker, route.service, generation, count)

        return worker.link.post(lambda seq: replace(mine, seq=seq), on_ack=heard)

    def _share(self, total: int | None, index: int) -> int | None:
        """Split a limit so that the shares add up to it."""
        if total is None:
            return None
        return total // self.count + (index < total % self.count)

    # What workers say.

    def _heard(self, worker: Worker, message: wire.Message) -> None:
        if isinstance(message, wire.Hello):
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

    async def _answers(self, asked: list[tuple[Worker, Pending]], patience: float = ANSWER_TIMEOUT) -> list[wire.Ack]:
        """Wait for every worker's answer; a stuck worker is killed, its successor begins with the newest plan."""
        acks = []
        with trio.move_on_after(patience) as scope:
            for worker, pending in asked:
                with suppress(LinkLostError):
                    ack = await pending.wait()
                    acks.append(ack)
                    if ack.error:
                        log.error("worker refused a request", extra=facts(pid=worker.process.pid, reason=ack.error))
        if scope.cancelled_caught:
            for worker in {worker for worker, pending in asked if not pending.done.is_set()}:
                log.error("worker does not answer; killing it", extra=facts(pid=worker.process.pid))
                worker.process.kill()
                await worker.process.wait()
        return acks

    async def _count(self) -> None:
        while True:
            await trio.sleep(COUNT_INTERVAL)
            asked = [(worker, worker.link.post(wire.Snapshot)) for worker in self.workers]
            await self._answers(asked, HANG_TIMEOUT)


def _post_listen(service: str, listeners: Mapping[str, socket.socket], worker: Worker) -> Pending:
    descriptors = [listener.fileno() for listener in listeners.values()]
    return worker.link.post(lambda seq: wire.Listen(seq, service, tuple(listeners)), descriptors)


def _chunks(listeners: Mapping[str, socket.socket]) -> Iterator[dict[str, socket.socket]]:
    """As many as one message can carry."""
    rest = iter(listeners.items())
    while chunk := dict(islice(rest, wire.MAX_FDS)):
        yield chunk


def _nothing() -> None:
    """A worker that replaces another has nobody waiting for its start."""
