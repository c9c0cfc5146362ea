"""What the demo has shown: the figures, and whether all went as promised."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy.cli.terminal import paint, plural, took

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.cli.demo.clients import Answer, Load


@dataclass(frozen=True)
class Swap:
    """`result` is what `proxyctl swap --json` printed; `late`: answers of the old version to connections that were
    opened after the switch had been reported.
    """

    result: dict[str, Any]
    late: int


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
            to, result = swap.result["to"], swap.result["result"]
            if result != "swapped":
                found.append(f"the swap to {to} ended as {result}: {swap.result['error']}")
            if swap.result["forced"]:
                found.append(f"{plural(swap.result['forced'], 'connection')} cut in the swap to {to}")
            if swap.late:
                found.append(f"{plural(swap.late, 'answer')} of the old version after the switch to {to}")
        return found

    def lines(self) -> Iterator[str]:
        """The figures, one line each, and the verdict."""
        load = self.load
        yield _line("requests", f"{load.sent:,} sent, {load.failed} failed{self._slowest()}")
        yield _line("answered by", ", ".join(f"{name} {count:,}" for name, count in sorted(load.versions().items())))
        yield _line("slow request", self._slow())
        for swap in self.swaps:
            yield _line(f"{swap.result['from']} -> {swap.result['to']}", _swap(swap))
        faults = self.faults
        yield ""
        yield paint("No request failed.", "green") if not faults else paint("Failed:", "red")
        for fault in faults:
            yield f"  {fault}"

    def _slowest(self) -> str:
        slowest = max((answer.seconds for answer in self.load.answers), default=0.0)
        return f"; the slowest took {took(slowest)}"

    def _slow(self) -> str:
        if isinstance(self.slow, str):
            return f"failed: {self.slow}"
        return f"begun before the swap, answered by {self.slow.version} after {took(self.slow.seconds)}"


def _swap(swap: Swap) -> str:
    phases = swap.result["phases"]
    return (
        f"switch {took(phases['switch'])}, drain {took(phases['drain'])}, "
        f"{plural(swap.result['forced'], 'connection')} cut, {plural(swap.late, 'late answer')} of the old version"
    )


def _line(name: str, text: str) -> str:
    return f"  {name:<14}{text}"
