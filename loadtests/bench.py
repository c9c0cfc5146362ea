"""Compare relays side by side: the same backend and the same clients, in alternating rounds of one run.

    python loadtests/bench.py            # under four minutes
    python loadtests/bench.py --quick    # under 45 seconds, coarser

Needs wrk, curl and nginx; leaves out the peers that are not installed (haproxy, libnginx-mod-stream).

Three loads: small requests on kept connections (wrk), one connection for each request (wrk, Connection: close), and one
bulk download (curl). Prints a Markdown table of medians over the rounds. What to trust on a machine that is not quiet:
ratios within one run, and CPU time per request rather than requests per second.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from machine import conditions, cpu_seconds, find, version_of
from peers import Peer, backend, kinds

if TYPE_CHECKING:
    from collections.abc import Iterable

_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}
_COLUMNS = (
    "relay, processes or threads", "kept: requests/s", "CPU µs/request", "p50 / p99 µs",
    "new connections/s", "CPU µs/connection", "bulk MiB/s", "CPU µs/MiB", "errors",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """`rate`: requests or MiB per second. `cpu`: microseconds of the proxy's CPU time per request or MiB."""

    rate: float
    cpu: float
    p50: float = 0.0
    p99: float = 0.0
    errors: int = 0


Rounds = dict[tuple[str, str], list[Result]]


def main() -> int:
    options = _options()
    absent = [tool for tool in ("wrk", "curl", "nginx") if not find(tool)]
    if absent:
        print(f"needs {', '.join(absent)}: apt-get install wrk curl nginx-light", file=sys.stderr)
        return 2
    about = conditions()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proxyctl-bench-")))
        peers = _start(stack, folder)
        rounds = _measure(peers, options)
    print(_report([peer.name for peer in peers], rounds, about, options))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, help="default 3; with --quick 1")
    parser.add_argument("--seconds", type=float, help="of each load; default 3; with --quick 1")
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (1.0 if options.quick else 3.0)
    return options


def _start(stack: ExitStack, folder: Path) -> list[Peer]:
    """Bring everyone up at once. Idle ones cost nothing, and every round meets the same processes."""
    folder.chmod(0o755)
    home = folder / "backend"
    home.mkdir()
    port = stack.enter_context(backend(home))
    peers = []
    for kind in kinds():
        if kind.missing:
            print(f"left out: {kind.name}: {kind.missing}", file=sys.stderr)
            continue
        place = folder / re.sub(r"\W+", "-", kind.name)
        place.mkdir()
        peers.append(stack.enter_context(kind.start(place, port)))
    return peers


def _measure(peers: list[Peer], options: argparse.Namespace) -> Rounds:
    rounds: Rounds = defaultdict(list)
    for number in range(options.rounds):
        # Every other round backwards, so that a machine that warms up or slows down favours nobody.
        for peer in peers if number % 2 == 0 else reversed(peers):
            print(f"round {number + 1} of {options.rounds}: {peer.name}", file=sys.stderr)
            rounds[peer.name, "kept"].append(_wrk(peer, options))
            rounds[peer.name, "new"].append(_wrk(peer, options, "-H", "Connection: close"))
            rounds[peer.name, "bulk"].append(_bulk(peer, options))
    return rounds


def _wrk(peer: Peer, options: argparse.Namespace, *more: str) -> Result:
    # wrk takes whole seconds only; a shorter run is cut off by SIGINT, on which it prints its report.
    command = ["wrk", "-t1", f"-c{options.connections}", "-d3600s", "--latency", *more]
    command = ["timeout", "--signal=INT", str(options.seconds), *command, f"http://127.0.0.1:{peer.port}/small"]
    before = cpu_seconds(peer.pids)
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    used = cpu_seconds(peer.pids) - before
    count = _number(r"(\d+) requests in", text)
    failed = re.findall(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failed += re.findall(r"Non-2xx or 3xx responses: (\d+)", text)
    return Result(
        rate=_number(r"Requests/sec:\s+([\d.]+)", text),
        cpu=used * 1e6 / count,
        p50=_latency("50", text),
        p99=_latency("99", text),
        errors=sum(int(each) for group in failed for each in ([group] if isinstance(group, str) else group)),
    )


def _bulk(peer: Peer, options: argparse.Namespace) -> Result:
    # The file is larger than what can be fetched in that time: curl's own limit ends it, with status 28.
    command = ["curl", "--silent", "--show-error", "--max-time", str(options.seconds), "--output", "/dev/null"]
    command += ["--write-out", "%{size_download} %{speed_download}", f"http://127.0.0.1:{peer.port}/bulk"]
    before = cpu_seconds(peer.pids)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    used = cpu_seconds(peer.pids) - before
    size, speed = (float(value) for value in done.stdout.split())
    return Result(rate=speed / 2**20, cpu=used * 1e6 / (size / 2**20), errors=int(done.returncode not in {0, 28}))


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if not found:
        raise RuntimeError(f"no {pattern} in what wrk printed:\n{text}")
    return float(found[1])


def _latency(percentile: str, text: str) -> float:
    """Microseconds."""
    found = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", text)
    return float(found[1]) * _MICROSECONDS[found[2]] if found else 0.0


def _report(names: list[str], rounds: Rounds, about: str, options: argparse.Namespace) -> str:
    loads = f"{options.connections} connections; {options.rounds} x {options.seconds:g} s; medians"
    tools = [version_of(["wrk", "-v"]), version_of([find("nginx") or "nginx", "-v"])]
    if haproxy := find("haproxy"):
        tools.append(version_of([haproxy, "-v"]))
    lines = [
        about,
        f"{loads}; backend: nginx, 1 worker, 128 bytes; clients and backend on the same CPUs",
        "; ".join(tool.partition(" [")[0].partition(" 20")[0] for tool in tools),
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|---" + "|---:" * (len(_COLUMNS) - 1) + "|",
        *(_row(name, rounds) for name in names),
    ]
    return "\n".join(lines)


def _row(name: str, rounds: Rounds) -> str:
    kept, new, bulk = (rounds[name, load] for load in ("kept", "new", "bulk"))
    relays = name != "direct"
    cells = [
        name,
        f"{_median(each.rate for each in kept):,.0f}",
        f"{_median(each.cpu for each in kept):.1f}" if relays else "-",
        f"{_median(each.p50 for each in kept):,.0f} / {_median(each.p99 for each in kept):,.0f}",
        f"{_median(each.rate for each in new):,.0f}",
        f"{_median(each.cpu for each in new):.0f}" if relays else "-",
        f"{_median(each.rate for each in bulk):,.0f}",
        f"{_median(each.cpu for each in bulk):.0f}" if relays else "-",
        f"{sum(each.errors for each in (*kept, *new, *bulk))}",
    ]
    return f"| {' | '.join(cells)} |"


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    sys.exit(main())
