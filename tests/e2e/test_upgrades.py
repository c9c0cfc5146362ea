"""Upgrades of the proxy itself, from one release to another, that no client can notice; and releases that are no good.

With HTTP_SWAPS_FULL=1 the crowd is 5,000 idle, 200 busy TCP and 200 busy HTTP connections, 10 websockets and a download
of 1 GB, and there are 50 upgrades in a row.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.e2e import configs
from tests.e2e.crowd import Crowd
from tests.e2e.harness import Events, Held, Load, Metrics, Proxy, eventually, fetch, free_port, held, kill, processes_of
from tests.e2e.http_harness import FULL, PROGRAMS, Backends, need_module, service
from tests.e2e.releases import DEFECTS, Releases
from tests.e2e.test_scrapes import _went_backwards

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE, BUSY, SOCKETS, BYTES = (5000, 200, 10, 1 << 30) if FULL else (500, 50, 3, 200 << 20)
IN_A_ROW = 50 if FULL else 6
_BEFORE_EXEC = (
    "cannot be imported",
    "hangs in the check",
    "cannot read the config",
    "does not know the messages",
    "does not know the state",
)
_AFTER_EXEC = ("crashes after the exec", "hangs after the exec")
# Constants of the code under test, for releases with which something hangs: it does so for less long.
_IMPATIENT = {"REHEARSAL_TIMEOUT": 3.0, "RETURN": 4.0}


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Releases:
    """1.0.0 is installed; the proxies and commands of the test are what is installed when they start."""
    found = Releases(tmp_path / "releases")
    found.install(found.make("1.0.0"))
    monkeypatch.setenv("PYTHONPATH", str(found.current))
    return found


@pytest.fixture
def newer(releases: Releases) -> Callable[[], str]:
    """Install a newer release, and return its version."""
    numbers = iter(range(1, 100))
    return lambda: releases.install(releases.make(f"1.0.{next(numbers)}"))


def upgrade(proxy: Proxy, *, expect: str = "upgraded") -> dict[str, Any]:
    """Run `proxyctl upgrade --json`; returns the object."""
    done = proxy.ctl("upgrade", "--json")
    assert done.stdout, f"{done}\n{proxy.log_text()}"
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["result"] == expect, f"{result}\n{done.stderr}\n{proxy.log_text()}"
    assert done.returncode == (0 if expect == "upgraded" else 1)
    return result


def begin_upgrade(proxy: Proxy) -> tuple[int, Any]:
    return proxy.ask("POST", "/v1/upgrade", {})


def wait_upgraded(proxy: Proxy) -> dict[str, Any]:
    """The result of the first upgrade of this control process, or of the one that it was started to go on with."""

    def over() -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError, IndexError):  # the answer was cut by the exec
            last: dict[str, Any] | None = proxy.status()["proxy"]["last_upgrade"]
            return last
        return None

    found: dict[str, Any] = eventually(over, what="the upgrade is over")
    return found


def test_what_is_in_the_list_of_defects_is_tried() -> None:
    assert set(_BEFORE_EXEC + _AFTER_EXEC) == set(DEFECTS)


async def test_no_client_of_any_kind_notices_an_upgrade(
    tmp_path: Path, releases: Releases, newer: Callable[[], str]
) -> None:
    need_module("uvicorn")
    need_module("websockets")
    folder = tmp_path / "backends"
    folder.mkdir()
    backends = Backends(folder)
    tcp, web = free_port(), free_port()
    config = "workers = 2\n" + configs.service(
        tcp, name="tcp", v1=configs.command(sys.executable, str(PROGRAMS / "bulk.py"), "{port}")
    )
    config += service(web, v1=backends._python(
        "uvicorn", "bulk:app", f"--app-dir={PROGRAMS}", "--port={port}", "--log-level=warning",
        "--timeout-keep-alive=3600",
    ))  # fmt: skip
    run = trio.to_thread.run_sync
    proxy = Proxy(tmp_path, config)
    try:
        await run(proxy.start)
        before = await run(proxy.status)
        async with Crowd() as crowd, _scraped(proxy) as pages:
            for kind, count, port in (
                ("idle", IDLE, tcp), ("echo", BUSY, tcp),
                ("posts", BUSY, web), ("socket", SOCKETS, web), ("events", 1, web),
            ):  # fmt: skip
                await crowd.join(kind, count, port)
            await crowd.join("download", 1, web, size=BYTES, rate=BYTES // 10)
            await crowd.join("upload", 1, tcp, size=BYTES // 4, rate=BYTES // 40)
            await crowd.progress()
            version = newer()
            result = await run(upgrade, proxy)
            await crowd.progress()
            after = await run(proxy.status)
        metrics = await run(proxy.metrics)
    finally:
        await run(proxy.kill)
    assert not crowd.errors
    assert crowd.done["download"] == crowd.done["upload"] == [1]
    assert [
        entry for kind in ("idle", "echo", "posts", "socket", "events") for entry in crowd.done[kind] if not entry
    ] == []
    posted = sum(crowd.done["posts"])
    assert len({identity for identity, _, _ in backends.entries()}) == len(backends.entries()) == posted

    assert after["proxy"]["version"] == version
    assert after["proxy"]["pid"] == before["proxy"]["pid"]
    assert not set(_workers(after)) & set(_workers(before))
    assert len(_workers(after)) == 2
    assert _backends(after) == _backends(before)
    assert (result["from"], result["to"]) == ("1.0.0", version)
    clients = IDLE + 2 * BUSY + SOCKETS + 3
    assert clients - result["kept"] <= result["carried"] <= clients
    print(f"{result['carried']} carried, {result['kept']} kept, {result['pause']:.3f} s, {result['phases']}")
    assert len(pages) > 3
    for earlier, later in pairwise([*pages, metrics]):
        assert not _went_backwards(earlier, later)
    assert metrics.get("proxy_connections_total", service="tcp") == IDLE + BUSY + 1


@contextlib.asynccontextmanager
async def _scraped(proxy: Proxy) -> Any:
    """Scrape all the time; yields the pages."""
    pages: list[Metrics] = []

    async def scrape() -> None:
        while True:
            with contextlib.suppress(
                OSError, ValueError, IndexError
            ):  # the exec cuts an answer, as Prometheus knows it
                pages.append(await trio.to_thread.run_sync(proxy.metrics))
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrape)
        yield pages
        nursery.cancel_scope.cancel()


def _workers(status: dict[str, Any]) -> list[int]:
    return [worker["pid"] for worker in status["proxy"]["workers"]]


def _backends(status: dict[str, Any]) -> list[tuple[str, int, int]]:
    """Service, generation and pid of each."""
    return [
        (name, generation["id"], replica["pid"])
        for name, found in status["services"].items()
        for generation in found["generations"]
        for replica in generation["replicas"]
    ]


def test_many_upgrades_in_a_row_leave_nothing_behind(tmp_path: Path, releases: Releases) -> None:
    """50 at full size: each takes some seconds."""
    releases.make("1.0.1")
    port = free_port()
    with (
        Proxy(tmp_path, "workers = 1\n" + configs.service(port)) as proxy,
        processes_of(str(tmp_path)) as ours,
        Held(port) as client,
    ):
        first = client.ask()
        descriptors: list[int] = []
        memory: list[int] = []
        for number in range(IN_A_ROW):
            version = releases.install(("1.0.1", "1.0.0")[number % 2])
            result = upgrade(proxy)
            assert (result["to"], result["carried"], result["kept"]) == (version, 1, 0)
            assert client.ask() == first
            eventually(lambda: len(ours()) == 3, what="control, a worker and a backend")
            descriptors.append(sum(map(_descriptors, ours())))
            memory.append(sum(map(_memory, ours())))
        assert fetch(port).split()[:2] == ["v1", "1"]
        # A health check that is under way has one as well.
        early = min(descriptors[:4])
        eventually(lambda: sum(map(_descriptors, ours())) == early, what=f"{early} descriptors, after {descriptors}")
    assert memory[-1] <= memory[3] * 1.1


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _memory(pid: int) -> int:
    """Resident bytes."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def test_an_upgrade_right_after_an_upgrade_and_after_a_swap_works(
    tmp_path: Path, releases: Releases, newer: Callable[[], str]
) -> None:
    port = free_port()
    config = configs.service(port, drain='deadline = "10m"')
    with Proxy(tmp_path, config) as proxy, Load(port, clients=2) as load, held(port, 10) as clients:
        for _ in range(2):
            release = newer()
            assert upgrade(proxy)["to"] == release
            load.wait_for(20)
        proxy.ok("swap", "v2", "--no-wait")
        eventually(lambda: proxy.active()["version"] == "v2", what="switched")
        release = newer()
        assert upgrade(proxy)["to"] == release
        assert fetch(port).startswith("v2 2 ")
        assert [client.ask().split()[:2] for client in clients] == [["v1", "1"]] * 10
        assert not load.errors


def test_a_drain_keeps_its_deadline_over_an_upgrade_and_who_waits_for_the_swap_is_told_its_end(
    tmp_path: Path, releases: Releases, newer: Callable[[], str]
) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy, Held(port) as early, Held(port) as late:
        early.ask()
        late.ask()
        (old,) = proxy.pids()
        with Events(proxy) as events:
            swap = proxy.popen("swap", "v2", "--deadline", "2m", "--json")
            events.wait(phase="switch", state="end")
            deadline = events.wait(type="drain")["deadline"]
        version = newer()
        upgrade(proxy)
        generation = proxy.generation(1)
        assert generation
        assert generation["state"] == "draining"
        assert abs(generation["drain"]["deadline"] - deadline) < 0.1
        assert generation["replicas"][0]["pid"] == old
        assert proxy.status()["proxy"]["version"] == version
        assert fetch(port).startswith("v2 ")
        assert early.ask().startswith("v1 ")
        early.close()
        eventually(lambda: (proxy.generation(1) or generation)["drain"]["remaining"] == 1, what="one has left")
        assert late.ask().startswith("v1 ")
        late.close()
        out, err = swap.communicate(timeout=30)
        result = json.loads(out.splitlines()[-1])
        assert swap.returncode == 0, err
        assert (result["result"], result["drained"], result["forced"]) == ("swapped", 2, 0)


def test_there_is_one_upgrade_at_a_time_and_none_while_a_swap_has_not_switched(
    tmp_path: Path, releases: Releases, newer: Callable[[], str]
) -> None:
    port = free_port()
    config = configs.service(port, v1=configs.backend(), v2=configs.backend("--late=1.5"))
    with Proxy(tmp_path, config) as proxy:
        swap = proxy.begin("swap", version="v2")["id"]
        with Events(proxy) as events:
            status, answer = begin_upgrade(proxy)
            assert (status, answer["error"]["code"]) == (409, "swap_in_progress")
            done = proxy.ctl("upgrade")
            assert (done.returncode, done.stdout) == (1, "")
            assert "under way" in done.stderr
            events.wait(operation=swap, type="result")
        version = newer()
        status, begun = begin_upgrade(proxy)
        assert (status, begun["from"]) == (202, "1.0.0")
        status, answer = begin_upgrade(proxy)
        assert (status, answer["error"]["code"]) == (409, "upgrade_in_progress")
        result = wait_upgraded(proxy)
        assert (result["result"], result["to"]) == ("upgraded", version)
        assert fetch(port).startswith("v2 ")


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        ("cannot be imported", "no_such_module"),
        ("hangs in the check", "within"),
        ("cannot read the config", "keep_warm"),
        ("does not know the messages", "messages"),
        ("does not know the state", "state"),
    ],
)
def test_a_release_that_fails_its_check_is_not_let_near_anything(
    tmp_path: Path, releases: Releases, defect: str, says: str
) -> None:
    hangs = "hangs" in defect
    old = releases.install(releases.make("1.1.0", **_IMPATIENT)) if hangs else "1.0.0"
    releases.make("2.0.0", defect)
    port = free_port()
    config = configs.service(port, drain='keep_warm = "0s"')
    with Proxy(tmp_path, config) as proxy, Held(port) as client:
        client.ask()
        pids = _workers(proxy.status()), proxy.pids()
        releases.install("2.0.0")
        done = proxy.ctl("upgrade")
        assert done.returncode == 1
        assert f"upgrade of the proxy from {old} failed" in done.stderr
        assert f"({old} serves on)" in done.stderr
        assert says in done.stderr
        assert proxy.status()["proxy"]["last_upgrade"]["result"] == "failed"
        assert (_workers(proxy.status()), proxy.pids()) == pids
        assert client.ask().startswith("v1 1 ")
        client.close()
        proxy.operate("swap", version="v2")
        assert proxy.status()["proxy"]["version"] == old
        assert fetch(port).startswith("v2 2 ")
        if defect == "cannot be imported":  # one for all
            releases.install(releases.make("2.0.1"))
            assert upgrade(proxy)["to"] == "2.0.1"


@pytest.mark.parametrize("defect", _AFTER_EXEC)
def test_after_the_exec_workers_and_backends_serve_on_until_good_code_adopts_them(
    tmp_path: Path, releases: Releases, defect: str
) -> None:
    releases.make("2.0.0", defect, **_IMPATIENT)
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy, Load(port, clients=2) as load, held(port, 10) as clients:
        assert proxy.process
        before = proxy.status()
        releases.install("2.0.0")
        done = proxy.ctl("upgrade")
        assert done.returncode == 1
        assert "upgrade of the proxy from 1.0.0 failed: no answer for" in done.stderr
        assert "under way: exec" in done.stderr
        assert "workers and backends serve on" in done.stderr
        load.wait_for(20)
        if "hangs" in defect:
            assert f"kill -9 {proxy.pid}" in done.stderr
            kill(proxy.pid)
        proxy.process.wait(10)
        releases.install(releases.make("2.0.1"))
        proxy.start()
        after = proxy.status()
        assert after["proxy"]["version"] == "2.0.1"
        assert _backends(after) == _backends(before)
        assert [client.ask().split()[:2] for client in clients] == [["v1", "1"]] * 10
        # It goes on where the bad code left it: the workers are of the old release still.
        result = wait_upgraded(proxy)
        assert (result["result"], result["from"], result["to"]) == ("upgraded", "1.0.0", "2.0.1")
        assert not set(_workers(proxy.status())) & set(_workers(before))
        assert [client.ask().split()[:2] for client in clients] == [["v1", "1"]] * 10
        for client in clients:
            client.close()
        load.wait_for(20)
        proxy.operate("swap", version="v2")
        load.wait_for(20)
        load.stop()
        assert not load.errors


def test_sigusr2_upgrades_as_well(tmp_path: Path, releases: Releases, newer: Callable[[], str]) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy, Held(port) as client:
        first = client.ask()
        version = newer()
        os.kill(proxy.pid, signal.SIGUSR2)

        result = wait_upgraded(proxy)
        assert (result["result"], result["to"], result["carried"]) == ("upgraded", version, 1)
        assert client.ask() == first


@pytest.mark.parametrize("phase", ["check", "exec", "workers"])
def test_sigterm_during_an_upgrade_is_a_clean_stop(
    tmp_path: Path, releases: Releases, newer: Callable[[], str], phase: str
) -> None:
    port = free_port()
    with (
        Proxy(tmp_path, configs.service(port)) as proxy,
        processes_of(str(tmp_path)) as ours,
        Held(port) as client,
    ):
        assert proxy.process
        client.ask()
        newer()
        with Events(proxy) as events:
            begin_upgrade(proxy)
            events.wait(type="upgrade", phase="check", state="begin")
            if phase == "exec":
                events.wait(type="upgrade", phase="exec", state="begin")
        if phase == "workers":
            eventually(lambda: _is_replacing_workers(proxy), what="workers are being replaced")
        proxy.process.send_signal(signal.SIGTERM)
        client.close()
        assert proxy.process.wait(30) == 0, proxy.log_text()
        eventually(lambda: not ours(), what="nothing is left")
        with pytest.raises(ConnectionRefusedError):
            fetch(port)


def _is_replacing_workers(proxy: Proxy) -> bool:
    with contextlib.suppress(OSError, ValueError, IndexError):  # the answer was cut by the exec
        told = proxy.status()["proxy"]
        return told["last_upgrade"] or (told["upgrade"] or {}).get("phase") == "workers"
    return False
