"""Swaps that no HTTP client on a kept connection can notice.

With HTTP_SWAPS_FULL=1 these run in full: the classic experiment with each client and each backend by itself, 30 clients
with 1,000 POSTs each and a swap every second for a minute, and 20,000 raced POSTs. That takes half an hour.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.e2e import configs
from tests.e2e.harness import Events, Proxy, eventually, free_port
from tests.e2e.http_clients.running import Loop, Work
from tests.e2e.http_harness import FULL, PROGRAMS, Backends, Kept, clients_of, counter, service
from tests.tools import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.http_harness import Answer

CLIENTS = 30
POSTS, SECONDS = (1000, 60) if FULL else (60, 3)
RACED, RACERS, SWAPS = 20_000 if FULL else 1_000, 10, 10

# Each closes idle connections on SIGTERM in the way of its kind: plain.py is the one that does so as Go does.
CLASSIC = {"plain": ("urllib3", "hey", "node"), "node": ("httpx", "aiohttp", "curl"), "uvicorn": ("wrk", "h2load")}
EXPERIMENTS = (
    [(server, (client,)) for server in CLASSIC for clients in CLASSIC.values() for client in clients]
    if FULL
    else list(CLASSIC.items())
)


@pytest.mark.parametrize(
    ("server", "programs"), EXPERIMENTS, ids=[f"{server}-{'+'.join(programs)}" for server, programs in EXPERIMENTS]
)
def test_clients_that_post_on_kept_connections_see_no_error_while_the_service_swaps_every_second(
    tmp_path: Path, server: str, programs: tuple[str, ...]
) -> None:
    port, backends = free_port(), Backends(tmp_path)
    config = service(port, **{name: backends.version(server, name) for name in ("v1", "v2")})
    with Proxy(tmp_path, config) as proxy, contextlib.ExitStack() as stack:
        url = f"http://127.0.0.1:{port}"
        works = [Work(url, CLIENTS // len(programs), POSTS, SECONDS / POSTS, name) for name in programs]
        loops = [stack.enter_context(Loop(name, work, tmp_path)) for name, work in zip(programs, works, strict=True)]
        results: list[dict[str, Any]] = []
        seen: set[int] = set()
        while any(loop.is_running for loop in loops):
            next_swap = time.monotonic() + 1
            results.append(proxy.operate("swap", version=("v2", "v1")[len(results) % 2]))
            seen |= clients_of(port)
            time.sleep(max(0, next_swap - time.monotonic()))  # the experiment's rhythm; nothing waits for it
        tallies = {loop.client: loop.tally() for loop in loops}

    assert not {name: tally.errors for name, tally in tallies.items() if tally.errors}
    assert len(results) >= SECONDS / 2, "on a busy machine, a swap may take longer than a second"
    assert not sum(result["forced"] for result in results)
    assert len(seen) <= sum(work.clients for work in works), "connections stay the same ones"
    for work in works:
        tally = tallies[work.prefix]
        assert tally.connections in {None, work.clients}, work.prefix
        _assert_each_once(backends, work, tally.requests)


def _assert_each_once(backends: Backends, work: Work, requests: int) -> None:
    ids = Counter(identity for identity, _, _ in backends.entries() if identity.startswith(work.prefix))
    if work.prefix in {"hey", "h2load"}:  # they cannot give each request an id of its own
        assert requests == ids[work.prefix] == work.total
    elif work.prefix == "wrk":  # it stops at a time, with requests in flight that it does not count
        assert set(ids.values()) == {1}
        assert requests <= len(ids) <= requests + work.clients
    else:
        assert set(ids.values()) == {1}
        assert requests == len(ids) == work.total


def test_wrk_keeps_its_64_connections_over_20_swaps_and_no_drain_waits_for_them(tmp_path: Path) -> None:
    need("wrk", package="wrk")
    port, backends = free_port(), Backends(tmp_path)
    versions = {name: backends.version("nginx", name) for name in ("v1", "v2")}
    config = "workers = 2\n" + service(port, drain='deadline = "30s"', **versions)
    command = ["wrk", "-t1", "-c64", "-d120s", "--timeout=10s", f"http://127.0.0.1:{port}/"]
    with Proxy(tmp_path, config) as proxy:
        wrk = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            before = eventually(lambda: len(found := clients_of(port)) == 64 and found, what="64 connections")
            results = []
            for number in range(20):
                # Each connection is with the active generation, so that each has to move.
                eventually(lambda: proxy.active()["connections"] == 64, what="all have moved")
                results.append(proxy.operate("swap", version=("v2", "v1")[number % 2]))
            eventually(lambda: proxy.active()["connections"] == 64, what="all have moved")
            after = clients_of(port)
            migrated = counter(proxy, "proxy_http_migrated_connections_total", service="web")
        finally:
            wrk.send_signal(signal.SIGINT)  # it stops, and reports
            output = wrk.communicate()[0]
    assert after == before
    assert "Socket errors" not in output
    assert "Non-2xx" not in output
    assert max(result["phases"]["drain"] for result in results) < 1
    assert sum(result["forced"] for result in results) == 0
    assert migrated == 20 * 64


@contextlib.contextmanager
def _running(backends: Backends, version: str) -> Iterator[str]:
    """A backend that runs elsewhere, so that a swap to it is done in a moment; yields the lines of its version."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-S", str(PROGRAMS / "plain.py"), str(port)],
        env={**os.environ, **backends.env, "PROXY_VERSION": version},
    )
    try:
        yield f'address = ["127.0.0.1:{port}"]\n'
    finally:
        process.kill()
        process.wait()


class Racer:
    """A client that POSTs all the time, and sends some requests in two parts, at moments of chance."""

    def __init__(self, port: int, number: int, go_on: Callable[[], bool], *, posts: int = 0) -> None:
        """It makes so many POSTs at least, and goes on as long as it is told to."""
        self.ids: list[str] = []
        self.versions: set[str] = set()
        self.errors: list[str] = []
        self._number = number
        self._go_on = go_on
        self._posts = posts
        self._chance = random.Random(number)
        self._client = Kept(port)
        self._stopped = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        with self._client as client:
            while (len(self.ids) < self._posts or self._go_on()) and not self.errors and not self._stopped:
                identity = f"{self._number}-{len(self.ids)}"
                self.ids.append(identity)
                try:
                    answer = self._post(client, identity)
                except (OSError, http.client.HTTPException) as error:
                    self.errors.append(f"{identity}: {error!r}")
                else:
                    self.versions.add(answer.version)
                    if answer.status != 200 or not answer.text.endswith(f" {identity}"):
                        self.errors.append(f"{identity}: {answer}")

    def _post(self, client: Kept, identity: str) -> Answer:
        request = f"POST /ids/{identity} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n123456789".encode()
        cut = self._chance.randrange(len(request)) if self._chance.random() < 0.3 else 0
        for part in filter(None, (request[:cut], request[cut:])):
            _spin(self._chance.random() * 0.001)
            client.write(part)
        return client.read()


def test_posts_that_race_the_switch_are_processed_exactly_once(tmp_path: Path) -> None:
    """Some are cut in two, so that a switch comes amid a head or a body."""
    port, backends, swaps = free_port(), Backends(tmp_path), 0
    with contextlib.ExitStack() as stack:
        addresses = {name: stack.enter_context(_running(backends, name)) for name in ("v1", "v2")}
        proxy = stack.enter_context(Proxy(tmp_path, "workers = 2\n" + service(port, **addresses)))
        with contextlib.ExitStack() as race:
            racers = [
                race.enter_context(Racer(port, number, lambda: swaps < SWAPS, posts=RACED // RACERS))
                for number in range(RACERS)
            ]
            while swaps < SWAPS or any(racer.is_running for racer in racers):
                proxy.operate("swap", version=("v2", "v1")[swaps % 2])
                swaps += 1
    assert sum(len(racer.ids) for racer in racers) >= RACED
    _assert_all_were_served(racers, backends)
    assert all(racer.versions == {"v1", "v2"} for racer in racers)


def _assert_all_were_served(racers: list[Racer], backends: Backends) -> None:
    assert not [error for racer in racers for error in racer.errors]
    ids = [identity for racer in racers for identity in racer.ids]
    assert Counter(identity for identity, _, _ in backends.entries()) == dict.fromkeys(ids, 1)


def test_posts_on_kept_connections_are_served_whatever_else_the_operator_does(tmp_path: Path) -> None:
    """Restarts, rollbacks, a swap that fails, one that is taken back, a pause, a change of the config."""
    port, backends, is_over = free_port(), Backends(tmp_path), False
    versions = {name: backends.version("plain", replicas=2) for name in ("v1", "v2")}
    versions["broken"] = configs.command("false")
    health = 'type = "http"\npath = "/health"\ninterval = "50ms"\nfall = 1'

    def config(*, drain: str = 'keep_warm = "60s"', http: str = "") -> str:
        return "workers = 2\n" + service(port, health=health, drain=drain, http=http, **versions)

    def wait_for_posts() -> None:
        wanted = [len(racer.ids) + 10 for racer in racers]
        eventually(
            lambda: (
                any(racer.errors for racer in racers)
                or all(len(racer.ids) > count for racer, count in zip(racers, wanted, strict=True))
            ),
            what="POSTs",
        )

    with Proxy(tmp_path, config()) as proxy, Events(proxy) as events, contextlib.ExitStack() as race:
        racers = [race.enter_context(Racer(port, number, lambda: not is_over)) for number in range(6)]
        wait_for_posts()
        for verb, options in (("restart", {}), ("swap", {"version": "v2"}), ("rollback", {})):
            proxy.operate(verb, **options)
            wait_for_posts()
        assert proxy.begin("swap", version="broken", wait=True)["result"] == "failed"
        wait_for_posts()
        proxy.ok("pause")
        proxy.operate("swap", version="v2")
        proxy.ok("resume")
        wait_for_posts()
        proxy.write(config(drain='bake = "60s"', http='forwarded = "replace"\nrequest_id = true\n'))
        proxy.ok("reload")
        wait_for_posts()
        number = proxy.begin("swap", version="v1")["id"]
        events.wait(operation=number, phase="bake", state="begin")
        wait_for_posts()
        backends.open("sick-v1")
        assert events.wait(operation=number, type="result")["result"]["result"] == "rolled_back"
        wait_for_posts()
        is_over = True
        eventually(lambda: not any(racer.is_running for racer in racers), what="the last answers")
    _assert_all_were_served(racers, backends)
    assert all(racer.versions == {"v1", "v2"} for racer in racers)


def _spin(seconds: float) -> None:
    """A sleep would be rounded up to what timers can do."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
