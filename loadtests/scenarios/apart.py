"""Small requests with the client on a CPU of its own: it takes nothing from the servers, as if it were elsewhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from loadtests import affinity
from loadtests.machine import listening
from loadtests.model import TCP, Scenario
from loadtests.scenarios import wrk
from proxy.kernel.procfs import descendants, processes, socket_owners

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.model import Backends, Running, Sample


def apart(connections: int) -> Scenario:
    """What `kept` does, by a client that has one CPU, with the relay and the backend on the others."""
    return Scenario(
        name=f"apart-{connections}",
        title=f"Small requests, {connections:,} kept connections, the client on a CPU of its own",
        columns=wrk.columns("request"),
        run=load(connections),
        protocols=(TCP,),
        rounds=2,
        turns=wrk.TURNS,
        missing=wrk.missing() or affinity.missing(),
        about=(
            f"wrk -t1 -c{connections}, as in kept-{connections}, on one CPU. While the load lasts, all processes of "
            "the relay and of the backend are kept on the others (sched_setaffinity): with two CPUs they share one. "
            "What the kernel does for a packet on loopback, to its delivery, is still done on the CPU of its sender."
        ),
    )


def load(connections: int) -> Callable[[Running, Backends, float], Sample]:
    """What a Scenario runs."""
    requests = wrk.load(connections, "/small")

    def run(running: Running, backends: Backends, seconds: float) -> Sample:
        with affinity.apart(servers(running, backends.web)):
            return requests(running, backends, seconds)

    return run


def servers(running: Running, port: int) -> Callable[[], set[int]]:
    """Tells the pids of the relay, of who listens on this port of a backend, and of all that they have started.

    RuntimeError if nobody can be seen to listen there.
    """
    owners = set().union(*socket_owners(listening([port])).values()) - {os.getpid()}
    if not owners:
        raise RuntimeError(f"none of the processes that can be seen listens on port {port}")
    return lambda: descendants(processes(), running.pids() | owners)
