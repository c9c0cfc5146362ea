"""The control process: puts the parts together, runs them, and stops them in order."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from proxy import __version__, config
from proxy.config.suggest import nearest
from proxy.control import clock, inherited, listeners, lock, output, reaper, relief, running, sample
from proxy.control.audit import Audit
from proxy.control.counters import CountersFile
from proxy.control.deps import Deps
from proxy.control.ending import Ending
from proxy.control.events import Bus
from proxy.control.history import History
from proxy.control.notify import ServiceManager
from proxy.control.open_connections import OpenConnections
from proxy.control.ports import Ports
from proxy.control.reload import Reload
from proxy.control.service import INHERITED, SERIES_LIFETIME, Service
from proxy.control.state import ProcessRecord, ServiceRecord
from proxy.control.state_file import StateFile
from proxy.control.steering import KERNEL, Steering
from proxy.control.traffic import name_of
from proxy.control.trouble import Troubles
from proxy.control.upgrade import HELD_SIGNALS, Upgrade
from proxy.control.workers import WorkerPool
from proxy.core.caller import Caller
from proxy.errors import ConfigError, ProxyError, StoppingError, UnknownServiceError
from proxy.kernel import nofile
from proxy.kernel.sd_notify import Notifier
from proxy.logs import Format, facts
from proxy.metrics import Metrics, Sample

if TYPE_CHECKING:
    import socket
    from contextlib import AbstractContextManager
    from pathlib import Path

    from proxy.config import Examined
    from proxy.control.adoption import Verdict
    from proxy.control.inherited import Inherited
    from proxy.control.operation import Operation
    from proxy.control.running import Running
    from proxy.control.state import State
    from proxy.core.requests import SwapRequest

Json = dict[str, Any]
# Serves the API until the event is set; started when it answers.
ServeApi = Callable[["App", trio.Event, trio.TaskStatus[None]], Awaitable[None]]

log = logging.getLogger(__name__)

_API_FAREWELL = 2.0
_BESIDE_WORKERS = (KERNEL, INHERITED)  # who counts connections too


class App:
    """The composition root, and what the API's Control protocol asks for.

    `run` is the whole life of the process. `stop` begins its end, a second time or with `now` it cuts that short.
    """

    def __init__(
        self,
        examined: Examined,
        *,
        log_format: Format = "text",
        access_log: Path | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """`arguments` are those that this process was started with, for an upgrade."""
        self.settings = settings = examined.settings
        self.services: dict[str, Service] = {}
        self.running_since = time.monotonic()  # over all upgrades
        self.lock: int | None = None  # the descriptor of the state folder's lock
        self.api_sockets: dict[str, socket.socket] = {}  # what the API listens on, by address
        self.activated: set[str] = set()  # Unix sockets whose files are the service manager's
        self._examined = examined
        state_dir = settings.state_dir
        bus, metrics = Bus(), Metrics(self._sample)
        troubles = Troubles(bus)
        count = settings.workers or len(os.sched_getaffinity(0))
        ending = Ending()
        pool = WorkerPool(count, state_dir, bus, log_format, access_log, ending=ending, troubles=troubles)
        steering = Steering(state_dir, settings.steering.marks, pool.traffic)
        for name in _BESIDE_WORKERS:
            pool.traffic.join(name, name)
        self.deps = Deps(
            config_path=settings.path,
            state_dir=state_dir,
            bus=bus,
            history=History(state_dir / "history.jsonl", troubles),
            audit=Audit(History(state_dir / "audit.jsonl", troubles, "audit"), bus),
            metrics=metrics,
            pool=pool,
            steering=steering,
            open=OpenConnections(pool, steering),
            ports=Ports(),
            state=StateFile(state_dir / "state.json", troubles),
            counters=CountersFile(state_dir / "counters.json", metrics, pool.traffic, troubles=troubles),
            troubles=troubles,
            ending=ending,
        )
        notifier = Notifier.from_environment(os.environ)
        self.manager_environment = notifier.environment()
        patience = max(each.health.start_timeout for each in settings.services.values())
        self.manager = ServiceManager(notifier, bus, self._described, patience=patience)
        self._started = trio.Event()
        self._stopping = trio.Event()
        self._now = trio.Event()
        self._settling, self._settled = trio.CancelScope(), trio.Event()
        self._reload = Reload(self)
        self._upgrade = Upgrade(self, arguments)

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    async def run(self, serve_api: ServeApi) -> None:
        """Serve until told to stop. Raises ProxyError when something it needs cannot be had; then nothing new runs."""
        nofile.raise_to_hard()
        handed_on = inherited.from_environment(os.environ)
        with lock.hold(self.settings.state_dir, handed_on.lock) as self.lock:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                # First of all: threads, and so the processes that they start, inherit what is blocked until then.
                await nursery.start(self._obey_signals)
                found = await self._look(handed_on)
                try:
                    await self._start(nursery, serve_api, found, handed_on)
                except ProxyError:
                    self.deps.ending.is_orderly = found.how == "first"
                    if found.how == "first":
                        self.deps.steering.remove()
                    raise
                await self._stopping.wait()
                self.deps.ending.is_orderly = True
                await self._shut_down()
                nursery.cancel_scope.cancel()
            self._remember_workers()
            await self.deps.state.flush()
            self.deps.counters.discard()
        log.info("stopped")

    async def _look(self, handed_on: Inherited) -> Running:
        """Read what was put down, and find what runs."""
        self.deps.state.load()
        self.deps.history.load()
        self.deps.audit.entries.load()
        self._go_back_to_earlier_config()
        found = await running.look(self.deps.state.state, self.settings, handed_on)
        if found.how == "first":
            self._take_given_config()
        return found

    async def _start(self, nursery: trio.Nursery, serve_api: ServeApi, found: Running, handed_on: Inherited) -> None:
        """Take over what was found running, and start the rest."""
        deps = self.deps
        if record := deps.state.state.upgrade:
            self._upgrade.resume(record, self.running_since)
            self.running_since = record.running_since
        if found.how == "first":
            deps.counters.discard()
        else:
            deps.counters.load([*_BESIDE_WORKERS, *(name_of(worker.identity) for worker in found.workers)])
        deps.metrics.control_started(found.how)
        for settings in self.settings.services.values():
            self.services[settings.name] = Service(settings, deps)
        self._bind_all(handed_on, is_first=found.how == "first")
        self._find_steered(found)
        for background in (
            self.manager.run,
            reaper.run,
            deps.state.run,
            deps.history.run,
            deps.audit.entries.run,
            deps.counters.run,
        ):
            nursery.start_soon(background)
        nursery.start_soon(clock.watch, deps.troubles)
        nursery.start_soon(partial(output.keep_rotated, deps.state_dir, troubles=deps.troubles))
        deps.pool.on_change = self._remember_workers
        if found.how == "first":
            await running.stop_rest(found, deps.state_dir)
        await nursery.start(deps.pool.run, found.workers)
        for name, service in tuple(self.services.items()):
            await self.start_service(service, found.verdicts.get(name))
        deps.steering.forget_others(
            {(each.name, number) for each in self.services.values() for number in each.generations}, self.services
        )
        await self._apply_changes(handed_on)
        self.api_sockets, handed_on.control = handed_on.control, {}
        self._api_over = trio.Event()
        await nursery.start(self._serve_api, serve_api)
        for description in handed_on.unused():
            log.warning("a listener was open and is not used; closing it", extra=facts(listener=description))
        self.activated = handed_on.activated
        handed_on.close()
        extra = facts(
            version=__version__,
            pid=os.getpid(),
            config=self.settings.path,
            socket=self.settings.admin.socket,
            admin=(self._admin() or {}).get("address"),
            start=None if found.how == "first" else found.how,
        )
        log.info("proxy runs", extra=extra)
        self._started.set()
        nursery.start_soon(self.manager.announce, self.not_ready)
        nursery.start_soon(self._settle_in_peace, found)

    def _go_back_to_earlier_config(self) -> None:
        """Begin with the config that was in force: what runs, runs by it. What has changed since is applied later, as
        by a reload.
        """
        state, given = self.deps.state.state, self._examined
        if not state.config or state.config == given.text:
            self._take_given_config()
            return
        try:
            earlier = config.examine_text(state.config, self.settings.path).settings
        except ConfigError as error:  # of another release, which knew other keys
            log.warning("the config of before cannot be compared", extra=facts(reason=error.message))
            self._take_given_config()
            return
        added = {name: each for name, each in given.settings.services.items() if _runs(state, name)}
        self.settings = given.settings.model_copy(update={"services": {**added, **earlier.services}})

    def _take_given_config(self) -> None:
        self.settings, self.deps.state.state.config = self._examined.settings, self._examined.text

    async def _apply_changes(self, handed_on: Inherited) -> None:
        """Apply what has changed in the config while no control process was there."""
        if self.deps.state.state.config != self._examined.text:
            try:
                await self._reload.apply(self._examined, Caller("config", "a start"), handed_on)
            except ProxyError as error:
                log.error("the changed config is not applied", extra=facts(reason=error.message, hint=error.hint))

    async def _settle_in_peace(self, found: Running) -> None:
        try:
            with self._settling:
                await self._settle(found)
        finally:
            self._settled.set()

    async def _settle(self, found: Running) -> None:
        """What is to be done after a start that nobody waits for."""
        pool = self.deps.pool
        if found.how != "first":
            await pool.forget_unknown()
            self.nursery.start_soon(self._forget_gone)
            await running.stop_rest(found, self.deps.state_dir)
        surplus = await relief.merge(pool, pool.surplus, self.nursery, self.longest_drain())
        if found.how == "upgraded":
            await self._upgrade.finish()
        while surplus:
            await trio.sleep(relief.AGAIN)
            surplus = await relief.merge(pool, surplus, self.nursery, self.longest_drain())

    async def _forget_gone(self) -> None:
        """Drop the series of generations that were gone already, once their last values have been scraped."""
        known = {(service.name, number) for service in self.services.values() for number in service.generations}
        gone = [each for each in self.deps.metrics.generations if (each[0], each[2]) not in known]
        await trio.sleep(SERIES_LIFETIME)
        for service, version, number in gone:
            await self.deps.pool.forget(service, number)
            self.deps.metrics.forget(service, version, number)

    def longest_drain(self) -> float:
        return max((each.settings.drain.deadline for each in self.services.values()), default=0.0)

    async def start_service(self, service: Service, found: Verdict | None = None) -> None:
        self.deps.metrics.service(service.name)
        await self.nursery.start(service.run, found)
        self.services[service.name] = service
        extra = facts(service=service.name, listen=",".join(service.describe()["listen"]))
        log.info("listening", extra=extra)

    async def remove_service(self, service: Service) -> None:
        """See a service off that is no longer configured: it drains, then nothing of it is left."""
        service.removed = True
        await service.close()
        service.end()
        del self.services[service.name]
        known = self.deps.state.state.services
        known[service.name] = ServiceRecord(next_generation=known[service.name].next_generation)
        self.deps.state.changed()
        await self.deps.pool.forget(service.name)
        self.deps.metrics.forget_service(service.name)
        log.info("service removed", extra=facts(service=service.name))

    def _find_steered(self, found: Running) -> None:
        """Go on with what the kernel was told, or begin anew where nothing runs that it was told of."""
        steering = self.deps.steering
        if found.how == "first":
            steering.remove()
            steering.remove_strangers(
                [
                    listeners.bound_address(address, service.listeners[str(address)])
                    for service in self.services.values()
                    for address in service.settings.listen
                ]
            )
        else:
            steering.find()

    def _bind_all(self, handed_on: Inherited, *, is_first: bool) -> None:
        try:
            for service in self.services.values():
                service.bind(handed_on)
        except ProxyError:
            if is_first:  # else there are files of sockets that workers still accept on
                for service in self.services.values():
                    service.close_listeners()
            raise

    async def _serve_api(self, serve: ServeApi, task_status: trio.TaskStatus[None]) -> None:
        self._api_shutdown = trio.Event()
        try:
            await serve(self, self._api_shutdown, task_status)
        finally:
            self._api_over.set()

    async def _obey_signals(self, task_status: trio.TaskStatus[None]) -> None:
        stops = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        with trio.open_signal_receiver(*stops, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)  # an exec leaves them blocked
            task_status.started()
            told_to_stop = False
            async for number in signals:
                by = Caller("signal", signal.Signals(number).name)
                if number in stops:
                    self.stop(by, now=told_to_stop)
                    told_to_stop = True
                elif not self._started.is_set():
                    log.warning("signal ignored: the proxy is still starting", extra=facts(signal=number))
                elif number == signal.SIGHUP:
                    self.nursery.start_soon(self._reload_on_signal, by)
                elif number == signal.SIGUSR1:
                    self._restart_all(by)
                else:
                    self._upgrade_on_signal(by)

    async def _reload_on_signal(self, by: Caller) -> None:
        try:
            await self.reload(by)
        except ProxyError as error:
            log.error("reload failed; nothing changed", extra=facts(reason=error.message))
        except Exception:
            log.exception("reload failed")  # whatever it is, what serves goes on serving

    def _upgrade_on_signal(self, by: Caller) -> None:
        try:
            self._upgrade.begin(by)
        except ProxyError as error:
            log.error("upgrade refused", extra=facts(reason=error.message))

    def _restart_all(self, by: Caller) -> None:
        for service in self.services.values():
            try:
                service.restart(by=by)
            except ProxyError as error:
                log.error("restart refused", extra=facts(service=service.name, reason=error.message))

    async def _shut_down(self) -> None:
        log.info("stopping", extra=facts(lame_duck=self.settings.lame_duck or None))
        self.manager.stopping()
        self._settling.cancel()
        await self._settled.wait()
        self.deps.bus.publish("stop")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hurry)
            with trio.move_on_after(self.settings.lame_duck):
                await self._now.wait()
            async with trio.open_nursery() as closing:
                for service in self.services.values():
                    closing.start_soon(service.close)
            nursery.cancel_scope.cancel()
        self.deps.steering.remove()
        self.deps.bus.close()
        self._api_shutdown.set()
        with trio.move_on_after(_API_FAREWELL):
            await self._api_over.wait()

    async def _hurry(self) -> None:
        await self._now.wait()
        for service in self.services.values():
            service.hurry()

    def _remember_workers(self) -> None:
        state = self.deps.state
        state.state.workers = [
            ProcessRecord(pid=each.pid, start_time=each.identity.start_time, socket=each.name)
            for each in self.deps.pool.workers
        ]
        state.changed()

    # What the API asks for.

    async def status(self) -> Json:
        await self._refresh()
        pool, limit = self.deps.pool, nofile.limit()
        workers = [{"pid": worker.pid, "connections": pool.traffic.connections(worker)} for worker in pool.workers]
        status = {
            "proxy": {
                "version": __version__,
                "pid": os.getpid(),
                "uptime": round(time.monotonic() - self.running_since, 3),
                "workers": workers,
                "worker_restarts": pool.restarts,
                "config": str(self.settings.path),
                "admin": self._admin(),
                "stopping": self._stopping.is_set(),
                "limits": {"descriptors": limit.soft, "descriptors_hard": limit.hard},
                "trouble": self.deps.troubles.describe(),
                "upgrade": self._upgrade.describe(),
                "last_upgrade": self._upgrade.last,
            },
            "services": self._described(),
        }
        await self.deps.counters.shown()
        return status

    async def service_status(self, service: str) -> Json:
        found = self._service(service)
        await self._refresh()
        return found.describe()

    async def swap(self, service: str, request: SwapRequest, by: Caller) -> Operation:
        return await self._on_file(self._service(service).swap(request, by))

    async def rollback(self, service: str, by: Caller, *, deadline: float | None = None) -> Operation:
        return await self._on_file(self._service(service).rollback(deadline=deadline, by=by))

    async def restart(self, service: str, by: Caller, *, deadline: float | None = None) -> Operation:
        return await self._on_file(self._service(service).restart(deadline=deadline, by=by))

    async def _on_file(self, operation: Operation) -> Operation:
        """Whoever is told that it was accepted will find out how it ended, whatever becomes of this process."""
        await self.deps.state.flush()
        return operation

    async def pause(self, service: str, by: Caller) -> None:
        await self._service(service).pause(by)

    async def resume(self, service: str, by: Caller) -> None:
        await self._service(service).resume(by)

    async def reload(self, by: Caller) -> Json:
        if self._stopping.is_set():
            raise StoppingError("the proxy is stopping", hint="`proxyctl run` starts it again")
        with self.manager.reloading():
            return await self._reload.perform(by)

    async def upgrade(self, by: Caller) -> Json:
        return self._upgrade.begin(by)

    def stop(self, by: Caller, *, now: bool = False) -> None:
        self.deps.audit.note("stop", by, now=now or None)
        self._stopping.set()
        if now:
            self._now.set()
        for service in self.services.values():
            service.stopping = True

    def history(self, service: str | None = None, *, limit: int = 100) -> Sequence[Json]:
        if service is not None:
            self._service(service)
        return self.deps.history.of(service, limit=limit)

    def actions(self, service: str | None = None, *, limit: int = 100) -> Sequence[Json]:
        return self.deps.audit.entries.of(service, limit=limit)

    def output_directory(self, service: str, version: str) -> Path:
        self._service(service)
        return output.folder(self.deps.state_dir, service, version)

    def output_files(self, service: str, version: str) -> Sequence[Path]:
        return output.files(self.output_directory(service, version))

    def events(self) -> AbstractContextManager[trio.MemoryReceiveChannel[Json]]:
        return self.deps.bus.subscribe()

    async def metrics(self, *, openmetrics: bool) -> tuple[bytes, str]:
        await self._refresh()
        rendered = self.deps.metrics.render(openmetrics=openmetrics)
        await self.deps.counters.shown()
        return rendered

    def not_ready(self) -> Sequence[str]:
        if self._stopping.is_set():
            return ["the proxy is stopping"]
        services = [service for service in self.services.values() if not service.removed]
        return [reason for service in services if (reason := service.not_ready())]

    async def _refresh(self) -> None:
        """Bring every count up to date."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.deps.open.refresh)
            for service in tuple(self.services.values()):
                nursery.start_soon(service.refresh)

    def _service(self, name: str) -> Service:
        if name not in self.services:
            known = ", ".join(nearest(name, self.services))
            raise UnknownServiceError(
                f"there is no service {name}; there is {known}", hint="`proxyctl status` lists them"
            )
        return self.services[name]

    def _admin(self) -> Json | None:
        """Where the admin page is, and what it takes."""
        admin = self.settings.admin
        listener = self.api_sockets.get(str(admin.listen))
        if admin.listen is None or listener is None:
            return None
        address = str(listeners.bound_address(admin.listen, listener))
        return {"address": address, "tls": admin.tls_cert is not None, "tokens": admin.token_file is not None}

    def _described(self) -> Json:
        return {name: service.describe() for name, service in self.services.items()}

    def _sample(self) -> Sample:
        return sample.take(self.services.values(), self.deps, handover_pause=self._upgrade.pause)


def _runs(state: State, service: str) -> bool:
    """Whether a service was started, as far as is known: a reload that was not through may have added it."""
    return bool(state.services.get(service, ServiceRecord()).generations)
