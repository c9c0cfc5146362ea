"""What control counts, and the page that is scraped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, disable_created_metrics, exposition
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.registry import Collector

from proxy.metrics import page
from proxy.metrics.tally import Counter, Histogram, Tally, label, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.core import Metric

    from proxy.metrics.sample import Sample

Json = dict[str, Any]

_PHASES = ("start", "health", "switch", "drain", "stop")  # of every swap; some bake, too
_PHASE_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

# The library has no types for these.
_render_text: Callable[[CollectorRegistry], bytes] = exposition.generate_latest
_render_openmetrics: Callable[[CollectorRegistry], bytes] = openmetrics_exposition.generate_latest
_disable_created_metrics: Callable[[], None] = disable_created_metrics

# A `_created` series beside each counter doubles the page, and promtool warns of them.
_disable_created_metrics()


class Metrics:
    """Counts what control does, and renders everything. `source` is asked at each rendering.

    What it counts can outlive the process: `save` it, and `restore` it in the next one. `on_change` is called after
    whatever `save` would tell.
    """

    def __init__(self, source: Callable[[], Sample] | None = None) -> None:
        self.source = source
        self.on_change: Callable[[], None] = lambda: None
        self._versions: dict[tuple[str, int], str] = {}
        self._restarts = Counter("proxy_backend_restarts", "Backend processes started again.", ("service", "version"))
        self._checks = Counter("proxy_health_checks", "Health checks, by result.", ("service", "version", "result"))
        self._swaps = Counter("proxy_swaps", "Swaps, rollbacks and restarts, by result.", ("service", "result"))
        self._phases = Histogram(
            "proxy_swap_phase_seconds", "How long each phase of a swap took.", ("service", "phase"), _PHASE_BUCKETS
        )
        self._drains = Histogram("proxy_drain_seconds", "How long drains took.", ("service",), _PHASE_BUCKETS)
        self._drain_outcomes = Counter(
            "proxy_drain_completed",
            "Drains that ended: drained before the deadline, or forced at it.",
            ("service", "outcome"),
        )
        self._forced = Counter(
            "proxy_drain_forced_connections",
            "Connections closed because the drain deadline had come.",
            ("service",),
        )
        self._upgrades = Counter("proxy_upgrades", "Upgrades of the proxy's own code, by result.", ("result",))
        self._starts = Counter(
            "proxy_control_starts",
            "Starts of the control process: first, adopted what another had left, or upgraded.",
            ("how",),
        )
        self._handed_over = Counter(
            "proxy_handover_connections", "Open connections that went from a worker to its successor."
        )
        self._of_services: tuple[Tally[Any], ...] = (
            self._restarts, self._checks, self._swaps, self._phases, self._drains, self._drain_outcomes, self._forced,
        )  # fmt: skip
        self._all: tuple[Tally[Any], ...] = (*self._of_services, self._upgrades, self._starts, self._handed_over)
        self._begin()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(self))

    def _begin(self) -> None:
        for result in ("upgraded", "failed"):
            self._upgrades.begin(result)
        for how in ("first", "adopted", "upgraded"):
            self._starts.begin(how)
        self._handed_over.begin()

    # What happens.

    def service(self, name: str) -> None:
        """Begin a service's series at zero, so that a rate sees the first event too."""
        for result in ("swapped", "failed", "rolled_back"):
            self._swaps.begin(name, result)
        for outcome in ("drained", "forced"):
            self._drain_outcomes.begin(name, outcome)
        for phase in _PHASES:
            self._phases.begin(name, phase)
        self._forced.begin(name)
        self._drains.begin(name)
        self.on_change()

    def started(self, service: str, version: str, generation: int) -> None:
        """Begin a generation's series; those of one that is known, such as an adopted one, stay as they are."""
        self._versions[service, generation] = version
        self._restarts.begin(service, version)
        for result in ("ok", "failed"):
            self._checks.begin(service, version, result)
        self.on_change()

    def forget(self, service: str, version: str, generation: int) -> None:
        """Drop a generation's series, and those of its version when it was the last generation of it."""
        self._versions.pop((service, generation), None)
        if (service, version) not in {(name, of) for (name, _), of in self._versions.items()}:
            self._restarts.drop(service, version)
            self._checks.drop(service, version)
        self.on_change()

    def forget_service(self, service: str) -> None:
        for key in [key for key in self._versions if key[0] == service]:
            del self._versions[key]
        for tally in self._of_services:
            tally.drop(service)
        self.on_change()

    def restarted(self, service: str, version: str) -> None:
        self._restarts.add(service, version)
        self.on_change()

    def checked(self, service: str, version: str, result: str) -> None:
        self._checks.add(service, version, result)
        self.on_change()

    def swapped(self, service: str, result: str) -> None:
        self._swaps.add(service, result)
        self.on_change()

    def phase(self, service: str, phase: str, seconds: float) -> None:
        self._phases.observe(seconds, service, phase)
        self.on_change()

    def drained(self, service: str, outcome: str, seconds: float, forced: int) -> None:
        self._drains.observe(seconds, service)
        self._drain_outcomes.add(service, outcome)
        self._forced.add(service, by=forced)
        self.on_change()

    def upgraded(self, result: str) -> None:
        """An upgrade ended: "upgraded" or "failed"."""
        self._upgrades.add(result)
        self.on_change()

    def control_started(self, how: str) -> None:
        """This process started: "first", "adopted" what a crashed one had left, or "upgraded"."""
        self._starts.add(how)
        self.on_change()

    def handed_over(self, connections: int) -> None:
        self._handed_over.add(by=connections)
        self.on_change()

    # What outlives the process.

    @property
    def generations(self) -> list[tuple[str, str, int]]:
        """Every generation that has series: service, version, number. After `restore`, those that are gone too."""
        return [(service, version, number) for (service, number), version in self._versions.items()]

    @property
    def services(self) -> set[str]:
        """Every service that has series. After `restore`, those that are not configured any more too."""
        counted = {labels[0] for tally in self._of_services for labels in tally.values}
        return counted | {service for service, _ in self._versions}

    def save(self) -> Json:
        """Everything counted, in JSON values."""
        versions = [[service, number, version] for (service, number), version in self._versions.items()]
        return {"versions": versions, "tallies": {tally.name: tally.save() for tally in self._all}}

    def restore(self, saved: Json) -> None:
        """Add what another process saved to what there is. Raises ValueError, and adds nothing, if it does not fit.

        What an earlier release did not count yet begins at zero; what only a later one knows is left out.
        """
        match saved:
            case {"versions": list(versions), "tallies": dict(tallies)}:
                known = dict(_version(entry) for entry in versions)
                parsed = [(tally, tally.parse(tallies.get(tally.name, []))) for tally in self._all]
            case _:
                raise ValueError("not what this release saves of its metrics")
        self._versions = known | self._versions
        for tally, values in parsed:
            tally.add_all(values)
        self.on_change()

    # What is shown.

    def version_of(self, service: str, generation: int) -> str:
        return self._versions.get((service, generation), "")

    def render(self, *, openmetrics: bool) -> tuple[bytes, str]:
        """The page in the OpenMetrics or the Prometheus text form, and its content type."""
        if openmetrics:
            return _render_openmetrics(self._registry), openmetrics_exposition.CONTENT_TYPE_LATEST
        return _render_text(self._registry), exposition.CONTENT_TYPE_LATEST

    def families(self) -> Iterable[Metric]:
        for tally in self._all:
            yield tally.family()
        if self.source is not None:
            yield from page.families(self.source(), self.version_of)


class _Collector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.families()


def _version(entry: object) -> tuple[tuple[str, int], str]:
    match entry:
        case [service, number, version]:
            return (label(service), whole(number)), label(version)
    raise ValueError(f"not a generation's version: {entry!r:.80}")
