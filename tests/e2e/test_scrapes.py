"""/metrics as Prometheus meets it: valid, moving during a drain, and never going backwards."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.catalog import CONTRACT
from tests.e2e import configs
from tests.e2e.harness import Events, Held, Load, Metrics, Proxy, eventually, free_port, held
from tests.tools import need

if TYPE_CHECKING:
    from pathlib import Path


def test_promtool_has_nothing_to_say_about_the_page_before_in_and_after_a_drain(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy, Events(proxy) as events:
        _promtool(proxy)
        with held(port, 1):
            number = proxy.begin("swap", version="v2")["id"]
            events.wait(operation=number, type="drain")
            _promtool(proxy)
            page = proxy.metrics()
            missing = [name for name in CONTRACT if name.removesuffix("_total") not in page.families]
            assert not missing
        events.wait(operation=number, type="result")
        proxy.begin("swap", version="v3", wait=True)
        _promtool(proxy)


def test_the_openmetrics_page_is_served_to_who_asks_for_it(tmp_path: Path) -> None:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    port, admin = free_port(), free_port()
    with Proxy(tmp_path, configs.service(port), admin=f'listen = "127.0.0.1:{admin}"') as proxy:
        proxy.operate("swap", version="v2")
        curl = need("curl", package="curl")
        page = subprocess.run(
            [curl, "-sSf", "-H", "Accept: application/openmetrics-text; version=1.0.0", "-i",
             f"http://127.0.0.1:{admin}/metrics"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        head, _, body = page.replace("\r\n", "\n").partition("\n\n")
        assert "content-type: application/openmetrics-text" in head.lower()
        assert body.endswith("# EOF\n")
        families = {family.name: family for family in text_string_to_metric_families(body)}
        assert {name.removesuffix("_total") for name in CONTRACT} <= set(families)


def test_drain_gauges_move_while_a_drain_goes_on(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, configs.service(port)) as proxy, Events(proxy) as events, held(port, 3) as clients:
        number = proxy.begin("swap", version="v2", deadline="60s")["id"]
        events.wait(operation=number, type="drain", remaining=3)
        labels = {"service": "web", "version": "v1", "generation": "1"}
        page = proxy.metrics()
        assert page.get("proxy_drain_active_connections", **labels) == 3
        assert page.get("proxy_connections_active", **labels) == 3
        deadline = page.get("proxy_drain_deadline_timestamp_seconds", **labels)
        assert deadline
        assert 50 < deadline - time.time() <= 60
        assert page.get("proxy_active_generation", service="web") == 2
        for left in (2, 1):
            clients[left].close()
            events.wait(operation=number, type="drain", remaining=left)
            assert proxy.metrics().get("proxy_drain_active_connections", **labels) == left
        clients[0].close()
        events.wait(operation=number, type="result")
        page = proxy.metrics()
        assert page.get("proxy_drain_active_connections", **labels) is None
        assert page.get("proxy_connections_active", **labels) == 0
        assert page.get("proxy_drain_completed_total", service="web", outcome="drained") == 1
        assert page.get("proxy_drain_seconds_count", service="web") == 1
        for phase in ("start", "health", "switch", "drain", "stop"):
            assert page.get("proxy_swap_phase_seconds_count", service="web", phase=phase) == 1


def test_no_counter_goes_backwards_when_workers_and_backends_are_killed_under_load(tmp_path: Path) -> None:
    port = free_port()
    config = "workers = 2\n" + configs.service(port, keys='connect_timeout = "20s"')
    with Proxy(tmp_path, config) as proxy, Events(proxy) as events, Load(port) as load:
        pages = [proxy.metrics()]

        def scrape() -> None:
            load.wait_for(50)
            pages.append(proxy.metrics())

        for victim in proxy.workers():
            scrape()
            os.kill(victim, signal.SIGKILL)
            events.wait(type="worker", state="died", pid=victim)
            scrape()
        (backend,) = proxy.pids()
        os.kill(backend, signal.SIGKILL)
        eventually(lambda: proxy.pids() not in ([backend], [None]), what="the backend is back")
        scrape()
        proxy.operate("swap", version="v2")
        scrape()
        proxy.operate("restart")
        scrape()
    for before, after in pairwise(pages):
        assert not _went_backwards(before, after)
    assert pages[-1].get("proxy_worker_restarts_total") == 2


def test_bytes_and_connections_are_counted_on_both_sides(tmp_path: Path) -> None:
    port = free_port()
    with Proxy(tmp_path, "workers = 2\n" + configs.service(port)) as proxy:
        sent = received = 0
        for _ in range(10):
            with Held(port) as client:
                received += len("HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n") + 2 + len(client.ask())
                sent += len("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: proxy.active()["connections"] == 0, what="all are closed")
        page, labels = proxy.metrics(), {"service": "web", "generation": "1"}
        assert page.get("proxy_connections_total", **labels) == 10
        assert page.get("proxy_received_bytes_total", side="client", **labels) == sent
        assert page.get("proxy_sent_bytes_total", side="backend", **labels) == sent
        assert page.get("proxy_received_bytes_total", side="backend", **labels) == received
        assert page.get("proxy_sent_bytes_total", side="client", **labels) == received
        assert page.get("proxy_connection_duration_seconds_count", **labels) == 10
        assert page.get("proxy_backend_connect_seconds_count", **labels) == 10


def _went_backwards(before: Metrics, after: Metrics) -> list[str]:
    counters = {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in before.families.values()
        for sample in family.samples
        if family.type in ("counter", "histogram")
    }
    return [
        f"{name} {labels}: {before.values[name, labels]} -> {after.values.get((name, labels))}"
        for name, labels in counters
        if after.values.get((name, labels), -1) < before.values[name, labels]
    ]


def _promtool(proxy: Proxy) -> None:
    promtool = need("promtool", package="prometheus")
    status, page = proxy.request("GET", "/metrics")
    assert status == 200
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
