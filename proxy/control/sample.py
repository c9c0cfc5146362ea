"""The proxy at the moment of a scrape, as the metrics want it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy.metrics import DrainSample, ReplicaSample, Sample, ServiceSample

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxy.control.deps import Deps
    from proxy.control.service import Service


@dataclass
class Past:
    """A service's operations that are over: when the last one began, and when the last one with each result ended."""

    began: float | None = None
    ended: dict[str, float] = field(default_factory=dict)


def take(services: Iterable[Service], deps: Deps, *, handover_pause: float | None) -> Sample:
    pool = deps.pool
    up = {worker.index for worker in pool.workers}
    pasts = pasts_in(deps.history.entries)
    connections = dict.fromkeys(range(pool.count), 0)
    for worker in pool.workers:  # one that is being relieved counts for its place, too
        if worker.index in connections:
            connections[worker.index] += pool.traffic.connections(worker)
    return Sample(
        services=[_of(service, deps, pasts.get(service.name, Past())) for service in services],
        workers={index: index in up for index in range(pool.count)},
        worker_connections=connections,
        worker_restarts=pool.restarts,
        trouble=deps.troubles.active(),
        handover_pause=handover_pause,
    )


def pasts_in(history: Iterable[Mapping[str, Any]]) -> dict[str, Past]:
    """By service. Entries, newest last, come from a file that may hold anything: what is no operation is left out."""
    found: dict[str, Past] = defaultdict(Past)
    for entry in history:
        match entry:
            case {
                "service": str(service),
                "result": str(result),
                "started": int() | float() as started,
                "finished": int() | float() as finished,
            }:
                past = found[service]
                past.began = max(started, past.began or started)  # drains end side by side, in any order
                past.ended[result] = finished
    return found


def _of(service: Service, deps: Deps, past: Past) -> ServiceSample:
    generations = list(service.generations.values())
    # As the history has it: to who marks moments, another number would be another swap.
    under_way = [round(operation.began, 3) for operation in service.operations.records()]
    return ServiceSample(
        name=service.name,
        active=service.active.id if service.active else 0,
        counts=deps.pool.traffic.of(service.name),
        protocol=service.settings.protocol,
        datapath=service.datapath,
        datapath_configured=service.settings.datapath,
        swap_started=max(under_way, default=past.began),
        swaps_ended=past.ended,
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
