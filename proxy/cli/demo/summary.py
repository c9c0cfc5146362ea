"""What the demo has shown: the figures, and whether all went as promised."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from proxy.cli.terminal import paint, plural, took

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.cli.demo.clients import Answer, Load


@dataclass
class Swap:
    """`asked` and `switched` are in trio's time; `result` is what `proxyctl swap --json` printed last."""

    asked: float
    switched: float = inf
    result: dict[str, Any] = field(default_factory=dict)


@dataclass
class Summary:
    load: Load
    slow: Answer | str = "not begun"  # or what went wrong with it
    swaps: list[Swap] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """Every promise that was not kept; the demo is to end with none."""
        found = [f"{count} x {reason}" for reason, count in self.load.failures.items()]
        if isinstance(self.slow, str):
            found.append(f"the slow request failed: {self.slow}")
        elif self.slow.version != "v1":
            found.append(f"the slow request was answered by {self.slow.version}")
        for swap in self.swaps:
            found += self._faults_of(swap)
        return found

    def lines(self) -> Iterator[str]:
        """The figures, one line each, and the verdict."""
        load = self.load
        yield _line("requests", f"{load.sent:,} sent, {load.failed} failed{self._slowest()}")
        yield _line("answered by", ", ".join(f"{name} {count:,}" for name, count in sorted(load.versions().items())))
        yield _line("slow request", self._slow())
        for swap in self.swaps:
            yield _line(f"{swap.result['from']} -> {swap.result['to']}", self._swap(swap))
        faults = self.faults
        yield ""
        yield paint("No request failed.", "green") if not faults else paint("Failed:", "red")
        for fault in faults:
            yield f"  {fault}"

    def late(self, swap: Swap) -> int:
        """Answers that the old version gave to connections begun after the switch had been reported."""
        later = [each.asked for each in self.swaps if each.asked > swap.asked]
        return self.load.versions(since=swap.switched, until=min(later, default=inf))[swap.result["from"]]

    def _faults_of(self, swap: Swap) -> Iterator[str]:
        result = swap.result
        target, forced, late = result["to"], result["forced"], self.late(swap)
        if result["result"] != "swapped":
            yield f"the swap to {target} ended as {result['result']}: {result['error']}"
        elif swap.switched == inf:
            yield f"the swap to {target} did not report the switch"
        if forced:
            yield f"{plural(forced, 'connection')} cut in the swap to {target}"
        if late:
            yield f"{plural(late, 'answer')} of {result['from']} after the switch to {target}"

    def _slowest(self) -> str:
        slowest = max((answer.seconds for answer in self.load.answers), default=0.0)
        return f"; the slowest took {took(slowest)}"

    def _slow(self) -> str:
        if isinstance(self.slow, str):
            return f"failed: {self.slow}"
        return f"begun before the swap, answered by {self.slow.version} after {took(self.slow.seconds)}"

    def _swap(self, swap: Swap) -> str:
        result, phases = swap.result, swap.result["phases"]
        return (
            f"switch {took(phases['switch'])}, drain {took(phases['drain'])}; {result['forced']} connections cut, "
            f"{self.late(swap)} late answers from {result['from']}"
        )


def _line(name: str, text: str) -> str:
    return f"  {name:<14}{text}"
