"""How the load tests' own client programs are spoken with: the program's side (clients.py has the other one).

A program says "ready" when it is connected, begins when it gets a line on stdin, and prints one line of JSON.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.model import Sample


def when_told(work: Callable[[], Sample]) -> None:
    """A program's side: say "ready", wait for the word, do it undisturbed, and report it, with the CPUs it took."""
    # Timers run out when they should, not up to 50 µs later (timer slack, proc(5)).
    Path("/proc/self/timerslack_ns").write_text("1")
    gc.collect()
    gc.disable()
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    cpu, begun = time.process_time(), time.monotonic()
    report = work()
    report["client"] = (time.process_time() - cpu) / (time.monotonic() - begun)
    print(json.dumps(report), flush=True)
