"""What the workers counted, merged so that no counter ever goes backwards when a worker, or control, is replaced."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from proxy.control import sums
from proxy.metrics.tally import label, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from proxy import wire
    from proxy.kernel.procfs import ProcessId

Json = dict[str, Any]


def name_of(process: ProcessId) -> str:
    """The name of a worker that every control process knows it by, as long as the machine runs."""
    return f"{process.pid}:{process.start_time}"


class Traffic:
    """The last counts of each living worker, the sum of those that are gone, and how many `restarts` there were.

    A worker is any object its owner likes. Another control process finds it again by the name with which it joined;
    between `restore` and `join`, that name stands for the worker. `on_change` is called after whatever `save` would
    tell.
    """

    def __init__(self) -> None:
        self.restarts = 0
        self.on_change: Callable[[], None] = lambda: None
        # Exact counts, by service.
        self._gone: dict[str, wire.Counts] = {}
        self._latest: dict[object, dict[str, wire.Counts]] = defaultdict(dict)
        self._names: dict[object, str] = {}

    # What happens.

    def join(self, worker: object, name: str) -> None:
        """Give a worker its name. What was restored under it is what the worker said last."""
        self._names.pop(name, None)
        self._names[worker] = name
        self._latest[worker] = sums.update(self._latest.pop(name, {}), self._latest[worker])
        self.on_change()

    def record(self, worker: object, counts: wire.Counts) -> None:
        """Take a worker's counts. Those of many generations come in several messages."""
        before = self._latest[worker].get(counts.service)
        after = sums.updated(before, sums.exact(counts))
        if after != before:
            self._latest[worker][counts.service] = after
            self.on_change()

    def retire(self, worker: object) -> None:
        """Keep what a worker counted; its open connections, and the requests on them, went with it."""
        self._names.pop(worker, None)
        self._end(self._latest.pop(worker, {}))
        self.on_change()

    def restarted(self) -> None:
        """A worker died and is replaced."""
        self.restarts += 1
        self.on_change()

    def forget(self, service: str, generation: int = 0) -> None:
        """Drop a generation's counts, or with 0 the whole service's."""
        for by_service in (self._gone, *self._latest.values()):
            if not generation:
                by_service.pop(service, None)
            elif service in by_service:
                by_service[service].generations.pop(generation, None)
        self.on_change()

    # What is known.

    def of(self, service: str) -> wire.Counts:
        """The sum over all workers, as of what they last said."""
        total = sums.none(service)
        for by_service in (self._gone, *self._latest.values()):
            if service in by_service:
                total = sums.add(total, by_service[service])
        return sums.in_seconds(total)

    def connections(self, worker: object) -> int:
        return sum(
            generation.active
            for counts in self._latest.get(worker, {}).values()
            for generation in counts.generations.values()
        )

    # What outlives the process.

    def save(self) -> Json:
        """Everything, in JSON values; encode them at once, for some go on counting.

        A worker without a name is not found again: it will count as gone.
        """
        named = {
            self._names.get(worker, f"nameless {index}"): _save(by_service)
            for index, (worker, by_service) in enumerate(self._latest.items())
        }
        return {"restarts": self.restarts, "gone": _save(self._gone), "workers": named}

    def restore(self, saved: Json, alive: Collection[str]) -> None:
        """Add what another process saved. Raises ValueError, and adds nothing, if that does not fit.

        What a worker in `alive` said last is kept until it reports anew; the others are gone.
        """
        match saved:
            case {"restarts": restarts, "gone": gone, "workers": dict(workers)}:
                restarts, gone = whole(restarts), _parse(gone)
                workers = {label(name): _parse(by_service) for name, by_service in workers.items()}
            case _:
                raise ValueError("not what this release saves of its traffic")
        self.restarts += restarts
        self._add(gone)
        for name, by_service in workers.items():
            if name in alive:
                self._expect(name, by_service)
            else:
                self._end(by_service)
        self.on_change()

    def _expect(self, name: str, said: dict[str, wire.Counts]) -> None:
        worker = next((worker for worker, known in self._names.items() if known == name), name)
        self._names[worker] = name
        self._latest[worker] = sums.update(said, self._latest[worker])

    def _end(self, by_service: dict[str, wire.Counts]) -> None:
        self._add({service: sums.end(counts) for service, counts in by_service.items()})

    def _add(self, by_service: dict[str, wire.Counts]) -> None:
        for service, counts in by_service.items():
            self._gone[service] = sums.add(self._gone.get(service, sums.none(service)), counts)


def _save(by_service: dict[str, wire.Counts]) -> Json:
    return {service: sums.save(counts) for service, counts in by_service.items()}


def _parse(saved: object) -> dict[str, wire.Counts]:
    match saved:
        case dict():
            return {service: sums.parse(service, counts) for service, counts in saved.items()}
    raise ValueError(f"not counts by service: {saved!r:.80}")
