"""An alert on a series that does not exist never fires; these keep conf/ true to what the proxy exports."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.catalog import named_in, series_names
from tests.tools import need

CONF = Path(__file__).parents[1] / "conf"
RULES = CONF / "prometheus-rules.yml"
DASHBOARD = CONF / "grafana-dashboard.json"


@pytest.mark.parametrize("path", [RULES, DASHBOARD], ids=lambda path: path.name)
def test_every_series_that_is_asked_for_exists(path: Path) -> None:
    named = named_in(path.read_text())
    assert named
    assert named <= series_names()


def promtool(*arguments: str) -> None:
    command = [need("promtool", package="prometheus"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_rules() -> None:
    promtool("check", "rules", str(RULES))


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    pairs = ",".join(f'{key}="{value}"' for key, value in {"job": "proxyctl", "instance": "a", **labels}.items())
    return {"series": f"{name}{{{pairs}}}", "values": values}


def alert(name: str, severity: str, **labels: str) -> dict[str, Any]:
    return {"alertname": name, "exp_alerts": [{"exp_labels": {"instance": "a", "severity": severity, **labels}}]}


def without_annotations(rules: str) -> str:
    """The sentences are for people to judge; promtool would compare them word by word."""
    return re.sub(r"^        annotations:\n(?:          .*\n)+", "", rules, flags=re.MULTILINE)


WEB = {"service": "web"}
V1 = {"service": "web", "version": "v1", "generation": "1", "replica": "0"}
V2 = {"service": "web", "version": "v2", "generation": "2", "replica": "0"}
DOWN, FORCED = "ProxyctlNoHealthyGeneration", "ProxyctlDrainForced"

SITUATIONS: dict[str, tuple[list[dict[str, str]], list[dict[str, Any]]]] = {
    "all is well, and an old generation that drains has lost its process": (
        [
            series("proxy_active_generation", "2x20", **WEB),
            series("proxy_backend_up", "0x20", **V1),
            series("proxy_backend_up", "1x20", **V2),
            series("proxy_drain_forced_connections_total", "4x20", **WEB),
            series("proxy_swaps_total", "3x20", result="failed", **WEB),
        ],
        [{"alertname": DOWN}, {"alertname": FORCED}, {"alertname": "ProxyctlSwapFailed"}],
    ),
    "the active generation is sick while an old one that drains is not": (
        [
            series("proxy_active_generation", "2x20", **WEB),
            series("proxy_backend_up", "1x20", **V1),
            series("proxy_backend_up", "0x20", **V2),
        ],
        [alert(DOWN, "critical", **WEB)],
    ),
    "there is no active generation": (
        [series("proxy_active_generation", "0x20", job="proxyctl", **WEB)],
        [alert(DOWN, "critical", job="proxyctl", **WEB)],
    ),
    "a drain was cut short": (
        [series("proxy_drain_forced_connections_total", "0x10 3x10", **WEB)],
        [alert(FORCED, "warning", **WEB)],
    ),
    "a swap failed, another was rolled back": (
        [
            series("proxy_swaps_total", "0x10 1x10", result="failed", **WEB),
            series("proxy_swaps_total", "1x10 2x10", result="rolled_back", **WEB),
            series("proxy_swaps_total", "1x10 9x10", result="swapped", **WEB),
        ],
        [
            {
                "alertname": "ProxyctlSwapFailed",
                "exp_alerts": [
                    {"exp_labels": {"instance": "a", "severity": "warning", "result": result, **WEB}}
                    for result in ("failed", "rolled_back")
                ],
            }
        ],
    ),
    "a backend died three times": (
        [series("proxy_backend_restarts_total", "0x10 3x10", service="web", version="v1")],
        [alert("ProxyctlBackendRestarts", "warning", service="web", version="v1")],
    ),
    "a worker died": (
        [series("proxy_worker_restarts_total", "0x10 1x10")],
        [alert("ProxyctlWorkerRestarts", "warning", job="proxyctl")],
    ),
    "clients were turned away": (
        [series("proxy_connections_refused_total", "0x18 2x2", reason="no_backend", **WEB)],
        [alert("ProxyctlConnectionsRefused", "critical", reason="no_backend", **WEB)],
    ),
    "nobody answers the scrape": ([series("up", "0x20")], [alert("ProxyctlDown", "critical", job="proxyctl")]),
    "the kernel cannot steer a service": (
        [series("proxy_datapath", "1x20", configured="steer", effective="relay", **WEB)],
        [
            {
                "alertname": "ProxyctlNotSteered",
                "exp_alerts": [
                    {"exp_labels": {"instance": "a", "severity": "warning", "effective": "relay", **WEB}},
                ],
            }
        ],
    ),
    "the kernel steers a service": (
        [series("proxy_datapath", "1x20", configured="steer", effective="steer", **WEB)],
        [{"alertname": "ProxyctlNotSteered"}],
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_alert_fires_when_it_is_due_and_only_then(situation: str, tmp_path: Path) -> None:
    given, expected = SITUATIONS[situation]
    (tmp_path / "rules.yml").write_text(without_annotations(RULES.read_text()))
    test = {"interval": "30s", "input_series": given, "alert_rule_test": [{"eval_time": "10m", **e} for e in expected]}
    path = tmp_path / "test.yml"
    path.write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": [test]}))
    promtool("test", "rules", str(path))
