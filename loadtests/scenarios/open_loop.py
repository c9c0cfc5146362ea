"""Requests at a fixed rate, whatever becomes of them: a client program.

    python -m loadtests.scenarios.open_loop PORT RATE [--connections 32] [--seconds 2] [--warm-up 0.5] [--path /small]

Says "ready" when it is connected, begins when it gets a line on stdin, and prints one line of JSON at the end:

    rate        answers per second in the time that counts, which comes after the warm-up
    answered    answers in all, the warm-up included
    p50 …       microseconds from the intended time to the answer
    errors      requests that failed or were never answered; unanswered: that were late, and are in the percentiles with
                the time they had waited for until then
    late        99 of 100 requests were sent no later than so many microseconds after their time, for want of CPU
    client      CPUs that this program used

Evenly spaced: request n is meant for `n / rate` seconds after the start, on connection n modulo their number, so each
connection has its own phase. Latency counts from that time even if the connection was busy then and the request had to
wait for it: a relay that stalls pays for all that would have been asked meanwhile (coordinated omission).
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from loadtests.scenarios.exchange import Http
from loadtests.scenarios.latency import at, percentiles
from loadtests.scenarios.lines import Line, Lines
from loadtests.scenarios.told import when_told

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECOND = 1_000_000_000
_GRACE = _SECOND  # for what is not answered when the last request is due

_now = time.monotonic_ns


class OpenLoop:
    """`rate` per second over all lines; `seconds` count, after `warm_up` more. Times inside are nanoseconds."""

    def __init__(self, lines: Lines, rate: float, seconds: float, warm_up: float) -> None:
        self.lines = lines
        self._all = lines.all
        self._interval = _SECOND / rate
        self._round = int(self._interval * len(self._all))  # from one request of a line to its next
        self._seconds = seconds
        self._begin = _now()
        self._counted = self._begin + int(warm_up * _SECOND)
        self._end = self._counted + int(seconds * _SECOND)
        self._number = 0
        self._due = self._begin
        self._latencies: list[int] = []
        self._lateness: list[int] = []
        self._answered = self._in_time = self._unanswered = 0

    def run(self) -> dict[str, float]:
        lines, patience = self.lines, self._end + _GRACE
        while (now := self._send_due()) < patience:
            until = self._due
            if until >= self._end:
                if not any(line.is_busy for line in self._all):
                    break
                until = patience
            for line in lines.wait((until - now) / _SECOND):
                if lines.receive(line):
                    self._done(line)
                if not line.is_busy:
                    self._next(line)
        self._give_up()
        return self._report()

    def _send_due(self) -> int:
        """Send whatever should have been sent by now; returns the time."""
        while (now := _now()) >= self._due and self._due < self._end:
            line = self._all[self._number % len(self._all)]
            if line.is_busy:
                line.queued += 1
            else:
                self._lateness.append(now - self._due)
                line.intended, line.sent = self._due, now
                self.lines.send(line)
            self._number += 1
            self._due = self._begin + int(self._number * self._interval)
        return now

    def _done(self, line: Line) -> None:
        now = _now()
        self._answered += 1
        if line.intended >= self._counted:
            self._latencies.append(now - line.intended)
        if self._counted <= now < self._end:
            self._in_time += 1

    def _next(self, line: Line) -> None:
        """Send what has waited for this line, up to the first that does not fail at once."""
        while line.queued and not line.is_busy:
            line.queued -= 1
            line.intended += self._round
            line.sent = _now()
            self.lines.send(line)

    def _give_up(self) -> None:
        """What still waits counts with the time it has waited. Sent, and no answer in a second: that is an error."""
        now = _now()
        for line in self._all:
            if line.is_busy and now - line.sent >= _GRACE:
                self.lines.errors += 1
            waiting = range(0 if line.is_busy else 1, line.queued + 1)
            for intended in (line.intended + number * self._round for number in waiting):
                self._unanswered += 1
                if intended >= self._counted:
                    self._latencies.append(now - intended)

    def _report(self) -> dict[str, float]:
        report: dict[str, float] = {"rate": self._in_time / self._seconds, "answered": self._answered}
        report |= percentiles(self._latencies)
        report |= {"errors": self.lines.errors, "reconnects": self.lines.reconnects, "unanswered": self._unanswered}
        return report | {"late": at(sorted(self._lateness), 0.99) / 1e3}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--warm-up", type=float, default=0.5)
    parser.add_argument("--path", default="/small")
    options = parser.parse_args(arguments)
    lines = Lines(options.port, options.connections, Http(options.path))
    when_told(lambda: OpenLoop(lines, options.rate, options.seconds, options.warm_up).run())
    lines.close()


if __name__ == "__main__":
    main()
