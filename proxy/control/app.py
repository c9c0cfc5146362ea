"""The control process: puts the parts together, runs them, and stops them in order."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from proxy import __version__
from proxy.config.suggest import nearest
from proxy.control import leftovers, lock, output, reaper
from proxy.control.deps import Deps
from proxy.control.events import Bus
from proxy.control.history import History
from proxy.control.ports import Ports
from proxy.control.reload import Reload
from proxy.control.service import Service
from proxy.control.state import ProcessRecord, ServiceRecord, StateFile
from proxy.control.workers import WorkerPool
from proxy.errors import ProxyError, StoppingError, UnknownServiceError
from proxy.kernel import nofile, procfs
from proxy.logs import Format, facts
from proxy.metrics import DrainSample, Metrics, ReplicaSample, Sample, ServiceSample

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from proxy.config.settings import Settings
    from proxy.control.operation import Operation
    from proxy.core.requests import SwapRequest

Json = dict[str, Any]
# Serves the API until the event is set; started when it answers.
ServeApi = Callable[["App", trio.Event, trio.TaskStatus[None]], Awaitable[None]]

log = logging.getLogger(__name__)

_API_FAREWELL = 2.0


class App:
    """The composition root, and what the API's Control protocol asks for.

    `run` is the whole life of the process. `stop` begins its end, a second time or with `now` it cuts that short.
    """

    def __init__(self, settings: Settings, *, log_format: Format = "text", access_log: Path | None = None) -> None:
        self.settings = settings
        self.services: dict[str, Service] = {}
        self.began = time.time()
        state_dir = settings.state_dir
        bus, metrics = Bus(), Metrics(self._sample)
        pool = WorkerPool(settings.workers or len(os.sched_getaffinity(0)), state_dir, bus, log_format, access_log)
        self.deps = Deps(
            config_path=settings.path,
            state_dir=state_dir,
            bus=bus,
            history=History(state_dir / "history.jsonl"),
            metrics=metrics,
            pool=pool,
            ports=Ports(),
            state=StateFile(state_dir / "state.json"),
        )
        self._started = trio.Event()
        self._stopping = trio.Event()
        self._now = trio.Event()
        self._reload = Reload(self)

    async def run(self, serve_api: ServeApi) -> None:
        """Serve until told to stop. Raises ProxyError when something it needs cannot be had; then nothing runs."""
        nofile.raise_to_hard()
        with lock.hold(self.settings.state_dir):
            self.deps.state.load()
            self.deps.history.load()
            await leftovers.stop(self.deps.state.state, self.settings.state_dir)
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                await nursery.start(self._obey_signals)
                await self._start(nursery, serve_api)
                await self._stopping.wait()
                await self._shut_down()
                nursery.cancel_scope.cancel()
            self._remember_workers()
            await self.deps.state.flush()
        log.info("stopped")

    async def _start(self, nursery: trio.Nursery, serve_api: ServeApi) -> None:
        deps = self.deps
        nursery.start_soon(reaper.run)
        nursery.start_soon(deps.state.run)
        nursery.start_soon(output.keep_rotated, deps.state_dir)
        for settings in self.settings.services.values():
            self.services[settings.name] = Service(settings, deps)
        self._bind_all()
        deps.pool.on_change = self._remember_workers
        await nursery.start(deps.pool.run)
        for service in tuple(self.services.values()):
            await self.start_service(service)
        self._api_over = trio.Event()
        await nursery.start(self._serve_api, serve_api)
        extra = facts(
            version=__version__, pid=os.getpid(), config=self.settings.path, socket=self.settings.admin.socket
        )
        log.info("proxy runs", extra=extra)
        self._started.set()

    async def start_service(self, service: Service) -> None:
        self.deps.metrics.service(service.name)
        await self.nursery.start(service.run)
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

    def _bind_all(self) -> None:
        try:
            for service in self.services.values():
                service.bind()
        except ProxyError:
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
            task_status.started()
            told_to_stop = False
            async for number in signals:
                if number in stops:
                    self.stop(now=told_to_stop)
                    told_to_stop = True
                elif not self._started.is_set():
                    log.warning("signal ignored: the proxy is still starting", extra=facts(signal=number))
                elif number == signal.SIGHUP:
                    self.nursery.start_soon(self._reload_on_signal)
                elif number == signal.SIGUSR1:
                    self._restart_all()
                else:
                    log.warning("upgrade is not available in this release")

    async def _reload_on_signal(self) -> None:
        try:
            await self.reload()
        except ProxyError as error:
            log.error("reload failed; nothing changed", extra=facts(reason=error.message))
        except Exception:
            log.exception("reload failed")  # whatever it is, what serves goes on serving

    def _restart_all(self) -> None:
        for service in self.services.values():
            try:
                service.restart(deadline=None)
            except ProxyError as error:
                log.error("restart refused", extra=facts(service=service.name, reason=error.message))

    async def _shut_down(self) -> None:
        log.info("stopping", extra=facts(lame_duck=self.settings.lame_duck or None))
        self.deps.bus.publish("stop")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hurry)
            with trio.move_on_after(self.settings.lame_duck):
                await self._now.wait()
            async with trio.open_nursery() as closing:
                for service in self.services.values():
                    closing.start_soon(service.close)
            nursery.cancel_scope.cancel()
        self.deps.bus.close()
        self._api_shutdown.set()
        with trio.move_on_after(_API_FAREWELL):
            await self._api_over.wait()

    async def _hurry(self) -> None:
        await self._now.wait()
        for service in self.services.values():
            service.hurry()

    def _remember_workers(self) -> None:
        found = (procfs.identify(worker.process.pid) for worker in self.deps.pool.workers)
        state = self.deps.state
        state.state.workers = [ProcessRecord(pid=each.pid, start_time=each.start_time) for each in found if each]
        state.changed()

    # What the API asks for.

    async def status(self) -> Json:
        await self.deps.pool.refresh()
        pool, limit = self.deps.pool, nofile.limit()
        workers = [
            {"pid": worker.process.pid, "connections": pool.traffic.connections(worker)} for worker in pool.workers
        ]
        return {
            "proxy": {
                "version": __version__,
                "pid": os.getpid(),
                "uptime": round(time.time() - self.began, 3),
                "workers": workers,
                "worker_restarts": pool.restarts,
                "config": str(self.settings.path),
                "stopping": self._stopping.is_set(),
                "limits": {"descriptors": limit.soft, "descriptors_hard": limit.hard},
                "trouble": self.deps.state.trouble,
            },
            "services": {name: service.describe() for name, service in self.services.items()},
        }

    async def service_status(self, service: str) -> Json:
        found = self._service(service)
        await self.deps.pool.refresh()
        return found.describe()

    async def swap(self, service: str, request: SwapRequest) -> Operation:
        return self._service(service).swap(request)

    async def rollback(self, service: str, *, deadline: float | None = None) -> Operation:
        return self._service(service).rollback(deadline=deadline)

    async def restart(self, service: str, *, deadline: float | None = None) -> Operation:
        return self._service(service).restart(deadline=deadline)

    async def pause(self, service: str) -> None:
        await self._service(service).pause()

    async def resume(self, service: str) -> None:
        await self._service(service).resume()

    async def reload(self) -> Json:
        if self._stopping.is_set():
            raise StoppingError("the proxy is stopping", hint="`proxyctl run` starts it again")
        return await self._reload.perform()

    def stop(self, *, now: bool = False) -> None:
        self._stopping.set()
        if now:
            self._now.set()
        for service in self.services.values():
            service.stopping = True

    def history(self, service: str | None = None, *, limit: int = 100) -> Sequence[Json]:
        if service is not None:
            self._service(service)
        return self.deps.history.of(service, limit=limit)

    def output_directory(self, service: str, version: str) -> Path:
        self._service(service)
        return output.folder(self.deps.state_dir, service, version)

    def output_files(self, service: str, version: str) -> Sequence[Path]:
        return output.files(self.output_directory(service, version))

    def events(self) -> AbstractContextManager[trio.MemoryReceiveChannel[Json]]:
        return self.deps.bus.subscribe()

    async def metrics(self, *, openmetrics: bool) -> tuple[bytes, str]:
        await self.deps.pool.refresh()
        return self.deps.metrics.render(openmetrics=openmetrics)

    def not_ready(self) -> Sequence[str]:
        if self._stopping.is_set():
            return ["the proxy is stopping"]
        services = [service for service in self.services.values() if not service.removed]
        return [reason for service in services if (reason := service.not_ready())]

    def _service(self, name: str) -> Service:
        if name not in self.services:
            known = ", ".join(nearest(name, self.services))
            raise UnknownServiceError(
                f"there is no service {name}; there is {known}", hint="`proxyctl status` lists them"
            )
        return self.services[name]

    # What /metrics asks for.

    def _sample(self) -> Sample:
        pool = self.deps.pool
        up = {worker.index for worker in pool.workers}
        return Sample(
            services=[self._sample_of(service) for service in self.services.values()],
            workers={index: index in up for index in range(pool.count)},
            worker_restarts=pool.restarts,
        )

    def _sample_of(self, service: Service) -> ServiceSample:
        generations = list(service.generations.values())
        return ServiceSample(
            name=service.name,
            active=service.active.id if service.active else 0,
            counts=self.deps.pool.traffic.of(service.name),
            protocol=service.settings.protocol,
            replicas=[
                ReplicaSample(generation.version.name, generation.id, replica.index, replica.healthy)
                for generation in generations
                for replica in generation.replicas
            ],
            drains=[
                DrainSample(
                    generation.version.name, generation.id, generation.drain.remaining, generation.drain.deadline
                )
                for generation in generations
                if generation.drain
            ],
        )
