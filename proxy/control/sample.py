"""The proxy at the moment of a scrape, as the metrics want it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.metrics import DrainSample, ReplicaSample, Sample, ServiceSample

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.control.deps import Deps
    from proxy.control.service import Service


def take(services: Iterable[Service], deps: Deps, *, handover_pause: float | None) -> Sample:
    pool = deps.pool
    up = {worker.index for worker in pool.workers}
    return Sample(
        services=[_of(service, deps) for service in services],
        workers={index: index in up for index in range(pool.count)},
        worker_restarts=pool.restarts,
        trouble=deps.troubles.active(),
        handover_pause=handover_pause,
    )


def _of(service: Service, deps: Deps) -> ServiceSample:
    generations = list(service.generations.values())
    return ServiceSample(
        name=service.name,
        active=service.active.id if service.active else 0,
        counts=deps.pool.traffic.of(service.name),
        protocol=service.settings.protocol,
        datapath=service.datapath,
        datapath_configured=service.settings.datapath,
        replicas=[
            ReplicaSample(generation.version.name, generation.id, replica.index, replica.healthy)
            for generation in generations
            for replica in generation.replicas
        ],
        drains=[
            DrainSample(generation.version.name, generation.id, generation.drain.remaining, generation.drain.deadline)
            for generation in generations
            if generation.drain
        ],
    )
