"""What the workers counted, merged so that no counter ever goes backwards when a worker is replaced."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import replace

from proxy import wire


def _add_each(into: dict[str, int], more: dict[str, int]) -> None:
    for key, count in more.items():
        into[key] = into.get(key, 0) + count


def _add_generation(into: wire.GenerationCounts, more: wire.GenerationCounts) -> None:
    into.active += more.active
    into.connections += more.connections
    into.received_client += more.received_client
    into.received_backend += more.received_backend
    into.sent_client += more.sent_client
    into.sent_backend += more.sent_backend
    _add_each(into.connect_errors, more.connect_errors)
    into.duration.add(more.duration)
    into.connect.add(more.connect)
    into.in_flight += more.in_flight
    _add_each(into.requests, more.requests)
    into.request_duration.add(more.request_duration)


def _add(into: wire.Counts, more: wire.Counts) -> wire.Counts:
    _add_each(into.refused, more.refused)
    _add_each(into.answered, more.answered)
    for number, counts in more.generations.items():
        _add_generation(into.generations.setdefault(number, wire.GenerationCounts()), counts)
    return replace(
        into,
        waiting=into.waiting + more.waiting,
        migrated=into.migrated + more.migrated,
        retried=into.retried + more.retried,
    )


class Traffic:
    """The last counts of each living worker, and the sum of those that are gone."""

    def __init__(self) -> None:
        self._gone: dict[str, wire.Counts] = {}
        self._latest: dict[object, dict[str, wire.Counts]] = defaultdict(dict)

    def record(self, worker: object, counts: wire.Counts) -> None:
        """Take a worker's counts. Those of many generations come in several messages."""
        before = self._latest[worker].get(counts.service)
        generations = {**before.generations, **counts.generations} if before else counts.generations
        self._latest[worker][counts.service] = replace(counts, generations=generations)

    def retire(self, worker: object) -> None:
        """Keep what a worker counted; its open connections, and the requests on them, went with it."""
        for service, counts in self._latest.pop(worker, {}).items():
            for generation in counts.generations.values():
                generation.active = generation.in_flight = 0
            ended = replace(counts, waiting=0)
            self._gone[service] = _add(self._gone.get(service, wire.Counts(service, 0, {}, {})), ended)

    def forget(self, service: str, generation: int = 0) -> None:
        """Drop a generation's counts, or with 0 the whole service's."""
        for by_service in (self._gone, *self._latest.values()):
            if not generation:
                by_service.pop(service, None)
            elif service in by_service:
                by_service[service].generations.pop(generation, None)

    def of(self, service: str) -> wire.Counts:
        """The sum over all workers, as of what they last said."""
        total = copy.deepcopy(self._gone.get(service, wire.Counts(service, 0, {}, {})))
        for by_service in self._latest.values():
            if service in by_service:
                total = _add(total, by_service[service])
        return total

    def connections(self, worker: object) -> int:
        return sum(
            generation.active
            for counts in self._latest.get(worker, {}).values()
            for generation in counts.generations.values()
        )
