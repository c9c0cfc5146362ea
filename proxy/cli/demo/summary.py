"""What the demo has shown: the figures, and whether all went as promised."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from proxy.cli.demo.figures import MIGRATED, RETRIES
from proxy.cli.terminal import paint, plural, took

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.cli.demo.chat import Chat
    from proxy.cli.demo.clients import Load
    from proxy.cli.demo.download import Download
    from proxy.cli.demo.figures import Figures
    from proxy.cli.demo.orders import Balance

_DRAIN_LIMIT = 1.0  # seconds that a drain may take beyond the longest request


@dataclass
class Swap:
    """`asked` and `switched` are in trio's time; `result` is what `proxyctl swap --json` printed last. `is_long`: the
    websocket and the download were under way, so that its drain had to wait for them.
    """

    asked: float
    switched: float = inf
    result: dict[str, Any] = field(default_factory=dict)
    is_long: bool = False


@dataclass
class Summary:
    load: Load
    chat: Chat
    download: Download
    orders: Balance
    figures: Figures
    swaps: list[Swap]

    @property
    def faults(self) -> list[str]:
        """Every promise that was not kept; the demo is to end with none."""
        load, orders = self.load, self.orders
        found = [f"{count} x {reason}" for reason, count in load.failures.items()]
        if load.reopened:
            found.append(f"clients had to connect again, {plural(load.reopened, 'time')}")
        if load.still_open < load.clients:
            found.append(f"{load.still_open} of {load.clients} connections lasted to the end")
        if orders.lost:
            found.append(f"{plural(orders.lost, 'POST')} never processed")
        if orders.repeated:
            found.append(f"{plural(orders.repeated, 'POST')} processed more than once")
        for swap in self.swaps:
            found += self._faults_of(swap)
        return found

    def lines(self) -> Iterator[str]:
        """The figures, one line each, and the verdict."""
        load, faults = self.load, self.faults
        yield _line("requests", f"{load.sent:,} sent, {load.failed} failed; the slowest took {took(self._slowest)}")
        yield _line("answered by", ", ".join(f"{name} {count:,}" for name, count in sorted(load.versions().items())))
        yield _line("connections", self._connections())
        yield _line("POSTs", f"{self.orders.sent:,} sent, {self._processed()}")
        for swap in self.swaps:
            if swap.is_long:
                yield _line("websocket", self._chat(swap))
                yield _line("download", self._download(swap))
        for swap in self.swaps:
            yield _line(f"{swap.result['from']} -> {swap.result['to']}", self._swap(swap))
        yield _line("metrics", f"{MIGRATED} {self.figures.migrated}, {RETRIES} {self.figures.retries}")
        yield ""
        good = "No request failed, and no client had to connect again."
        yield paint(good, "green") if not faults else paint("Failed:", "red")
        for fault in faults:
            yield f"  {fault}"

    def late(self, swap: Swap) -> int:
        """Answers that the old version gave to requests begun after the switch had been reported."""
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
        if swap.is_long:
            yield from self._faults_of_long(swap)
        elif (drain := result["phases"].get("drain", 0.0)) > self._slowest + _DRAIN_LIMIT:
            yield f"the drain of {result['from']} took {took(drain)}, the longest request {took(self._slowest)}"

    def _faults_of_long(self, swap: Swap) -> Iterator[str]:
        origin, chat, download = swap.result["from"], self.chat, self.download
        if chat.failure:
            yield f"the websocket failed: {chat.failure}"
        elif chat.version != origin or not self._messages_after(swap):
            yield f"the websocket did not live on with {origin} after the switch"
        if download.failure:
            yield f"the download failed: {download.failure}"
        elif download.version != origin or download.ended < swap.switched:
            yield f"the download did not go on from {origin} after the switch"

    @property
    def _slowest(self) -> float:
        return max((answer.seconds for answer in self.load.answers), default=0.0)

    def _connections(self) -> str:
        load = self.load
        return (
            f"{load.clients} kept by their clients: {load.reopened} reopened, {load.still_open} still open at the end, "
            f"{load.on_both} spoke with both versions"
        )

    def _processed(self) -> str:
        lost, repeated = self.orders.lost, self.orders.repeated
        if lost or repeated:
            return f"{self.orders.once:,} processed exactly once, {lost} never, {repeated} more than once"
        return "each processed exactly once"

    def _messages_after(self, swap: Swap) -> int:
        return sum(moment > swap.switched for moment in self.chat.replies)

    def _chat(self, swap: Swap) -> str:
        chat, after = self.chat, self._messages_after(swap)
        end = f"failed: {chat.failure}" if chat.failure else "closed in order"
        return f"{plural(len(chat.replies), 'message')} to {chat.version}, {after} of them after the switch; {end}"

    def _download(self, swap: Swap) -> str:
        download = self.download
        if download.failure:
            return f"failed after {download.size / 1e6:.1f} MB: {download.failure}"
        after = took(max(0.0, download.ended - swap.switched))
        duration = took(download.ended - download.began)
        size = f"{download.size / 1e6:.1f} MB"
        return f"{size} from {download.version} in {duration}, {after} of it after the switch; every byte as sent"

    def _swap(self, swap: Swap) -> str:
        result, phases = swap.result, swap.result["phases"]
        times = ", ".join(f"{name} {took(phases[name])}" for name in ("switch", "drain") if name in phases)
        waited = " (websocket, download)" if swap.is_long else ""
        return (
            f"{times or result['result']}{waited}; {plural(result['forced'], 'connection')} cut, "
            f"{plural(self.late(swap), 'late answer')} from {result['from']}"
        )


def _line(name: str, text: str) -> str:
    return f"  {name:<13}{text}"
