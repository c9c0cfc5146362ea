"""Compare relays side by side: the same backend and the same clients, in alternating rounds of one run.

    python loadtests/bench.py                                     # under six minutes
    python loadtests/bench.py --quick                             # under 75 seconds, coarser
    python loadtests/bench.py --only 'HTTP, 1' --loads kept,varied

Needs wrk, curl and nginx; leaves out the peers that are not installed (haproxy, libnginx-mod-stream).

Relays of TCP and of HTTP, and four loads. kept: the same small request over and over, on kept connections. varied:
kept too, but no two requests have the same head, as with browsers. new: one connection for each request
(Connection: close). bulk: one download. Prints Markdown: medians over the rounds, and this proxy's ratios to others.
What to trust on a machine that is not quiet: ratios within one run, and CPU time per request rather than requests per
second.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from loads import LOADS
from machine import conditions, find, version_of
from peers import FORWARDED, Kind, Peer, backend, choose, kinds, pattern
from report import Rounds, ratios, table


def main() -> int:
    options = _options()
    absent = [tool for tool in ("wrk", "curl", "nginx") if not find(tool)]
    if absent:
        print(f"needs {', '.join(absent)}: apt-get install wrk curl nginx-light", file=sys.stderr)
        return 2
    chosen = choose(kinds(options.forwarded), options.only)
    if not chosen:
        return 2
    about = conditions()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proxyctl-bench-")))
        peers = _start(stack, folder, chosen)
        rounds = _measure(peers, options)
    print(_head(about, options))
    print("", table([kind.name for kind in chosen], options.loads, rounds), sep="\n")
    if compared := ratios(chosen, options.loads, rounds):
        print("", compared, sep="\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument(
        "--only", metavar="PATTERN", type=pattern, default="", help="peers: a regular expression, found in their names"
    )
    parser.add_argument("--loads", type=_loads, default=list(LOADS), help=f"some of {','.join(LOADS)}; default all")
    parser.add_argument("--rounds", type=int, help="default 3; with --quick 1")
    parser.add_argument("--seconds", type=float, help="of each load; default 2; with --quick 1")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument(
        "--forwarded", choices=FORWARDED, default="append", help="what all HTTP relays tell the backend of the client"
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (1.0 if options.quick else 2.0)
    return options


def _loads(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := [name for name in chosen if name not in LOADS]:
        raise argparse.ArgumentTypeError(f"no load is named {', '.join(unknown)}; there are {', '.join(LOADS)}")
    return [name for name in LOADS if name in chosen]


def _start(stack: ExitStack, folder: Path, chosen: list[Kind]) -> dict[str, Peer]:
    """Bring everyone up at once. Idle ones cost nothing, and every round meets the same processes."""
    folder.chmod(0o755)
    home = folder / "backend"
    home.mkdir()
    port = stack.enter_context(backend(home))
    peers = {}
    for kind in chosen:
        place = folder / re.sub(r"\W+", "-", kind.name)
        place.mkdir()
        peers[kind.name] = stack.enter_context(kind.start(place, port))
    return peers


def _measure(peers: dict[str, Peer], options: argparse.Namespace) -> Rounds:
    """All peers under one load, then all under the next: what is compared is measured close together."""
    rounds: Rounds = defaultdict(list)
    for number in range(options.rounds):
        for load in options.loads:
            print(f"round {number + 1} of {options.rounds}: {load}", file=sys.stderr)
            # Every other round backwards, so that a machine that warms up or slows down favours nobody.
            for name in peers if number % 2 == 0 else reversed(peers):
                rounds[name, load].append(LOADS[load].run(peers[name], options.seconds, options.connections))
    return rounds


def _head(about: str, options: argparse.Namespace) -> str:
    tools = [version_of(["wrk", "-v"]), version_of([find("nginx") or "nginx", "-v"])]
    if haproxy := find("haproxy"):
        tools.append(version_of([haproxy, "-v"]))
    loads = f"{options.connections} connections; {options.rounds} x {options.seconds:g} s; medians"
    return "\n".join(
        (
            about,
            f"{loads}; backend: nginx, 1 worker, 128 bytes; clients and backend on the same CPUs",
            f"HTTP relays: X-Forwarded-For, -Proto and -Host: {options.forwarded}",
            "; ".join(tool.partition(" [")[0].partition(" 20")[0] for tool in tools),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
