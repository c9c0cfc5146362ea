"""One request after the other on each connection, as fast as they are answered: a client program.

    python -m loadtests.scenarios.closed_loop PORT [--connections 1] [--seconds 2] [--warm-up 0.5] [--websocket 64]

Says "ready" when it is connected, begins when it gets a line on stdin, and prints one line of JSON at the end: rate
(answers per second, without the warm-up), answered (all), p50, p99 and p999 (microseconds), errors, reconnects, and
client (CPUs that this program used). With --websocket, messages of so many bytes that are echoed; else GET /small.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from loadtests.scenarios.exchange import Http, Websocket
from loadtests.scenarios.latency import percentiles
from loadtests.scenarios.lines import Lines
from loadtests.scenarios.told import when_told

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECOND = 1_000_000_000
_PATIENCE = 5 * _SECOND  # for the last answers

_now = time.monotonic_ns


def run(lines: Lines, seconds: float, warm_up: float) -> dict[str, float]:
    """What came of it. A connection that fails is made anew, and given up if that does not work either."""
    begin = _now()
    counted = begin + int(warm_up * _SECOND)
    end = counted + int(seconds * _SECOND)
    latencies: list[int] = []
    answered = 0
    for line in lines.all:
        line.sent = _now()
        lines.send(line)
    while (now := _now()) < end:
        for line in lines.wait((end - now) / _SECOND):
            if lines.receive(line):
                now = _now()
                answered += 1
                if line.sent >= counted:
                    latencies.append(now - line.sent)
            if not line.is_busy and line.socket is not None:
                line.sent = _now()
                lines.send(line)
    rate = len(latencies) / seconds
    answered += _finish(lines, end + _PATIENCE)
    report = {"rate": rate, "answered": float(answered), "errors": float(lines.errors)}
    return report | percentiles(latencies) | {"reconnects": float(lines.reconnects)}


def _finish(lines: Lines, patience: int) -> int:
    """Wait for what is under way: how many answers came. What did not come is an error."""
    answered = 0
    while any(line.is_busy for line in lines.all) and (now := _now()) < patience:
        answered += sum(lines.receive(line) for line in lines.wait((patience - now) / _SECOND))
    lines.errors += sum(line.is_busy for line in lines.all)
    return answered


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--warm-up", type=float, default=0.5)
    parser.add_argument("--websocket", type=int, metavar="BYTES")
    options = parser.parse_args(arguments)
    exchange = Http() if options.websocket is None else Websocket(options.websocket)
    lines = Lines(options.port, options.connections, exchange)
    when_told(lambda: run(lines, options.seconds, options.warm_up))
    lines.close()


if __name__ == "__main__":
    main()
