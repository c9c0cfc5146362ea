"""An alert on a series that does not exist never fires; these keep conf/ true to what the proxy exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.catalog import named_in, series_names
from tests.tools import need

CONF = Path(__file__).parents[1] / "conf"
PROMETHEUS = CONF / "prometheus"
RECORDING, ALERTS = PROMETHEUS / "recording.yml", PROMETHEUS / "alerts.yml"
DASHBOARD = CONF / "grafana/dashboard.json"

# What recording.yml has, and a word of LEVEL:METRIC:OPERATIONS that is no metric: a count of some of its series.
_RECORDED = re.compile(r"\b\w+:(proxy_\w+):\w+")
_OF_RECORDED = {"proxy_http_requests_5xx": "proxy_http_requests"}


@pytest.mark.parametrize("path", [RECORDING, ALERTS, DASHBOARD], ids=lambda path: path.name)
def test_every_series_that_is_asked_for_exists(path: Path) -> None:
    named = named_in(_RECORDED.sub("", path.read_text()))
    assert named
    assert named <= series_names()


def test_every_series_that_is_recorded_is_of_a_metric_that_exists_and_is_used() -> None:
    recorded = re.findall(r"^ +- record: (\S+)$", RECORDING.read_text(), re.MULTILINE)
    metrics = {_OF_RECORDED.get(metric, metric) for metric in _RECORDED.findall("\n".join(recorded))}
    assert metrics <= {name.removesuffix("_total").removesuffix("_bucket") for name in series_names()}
    used = ALERTS.read_text() + DASHBOARD.read_text()
    assert [name for name in recorded if name not in used] == []
    assert {found[0] for found in re.finditer(_RECORDED, used)} <= set(recorded)


def promtool(*arguments: str) -> None:
    command = [need("promtool", package="prometheus"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_config_and_the_rules_that_it_names() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


def test_prometheus_accepts_what_is_there_to_be_uncommented_for_tls_and_a_token(tmp_path: Path) -> None:
    text = (PROMETHEUS / "prometheus.yml").read_text()
    shown = re.search(r"^  # - job_name: .*\n(?:  #  .*\n)+", text, re.MULTILINE)
    assert shown
    for path in re.findall(r"_file: (\S+)", shown[0]):
        (tmp_path / Path(path).name).write_text("")
        text = text.replace(path, str(tmp_path / Path(path).name))
    text = re.sub(r"(?<=\n)  # (- job_name|  )", r"  \1", text.partition("# credentials_file has")[2])
    config = tmp_path / "prometheus.yml"
    config.write_text("scrape_configs:\n" + text[text.index("  - job_name") :])
    assert {"scheme: https", "authorization:", "tls_config:"} <= {
        line.strip() for line in config.read_text().split("\n")
    }
    promtool("check", "config", str(config))


# The alerts, as people read them.


def alerts() -> dict[str, str]:
    """The text of each, by its name."""
    _, *texts = re.split(r"^ +- alert: ", ALERTS.read_text(), flags=re.MULTILINE)
    return {text.split()[0]: text for text in texts}


@pytest.mark.parametrize("name", alerts())
def test_who_is_woken_reads_what_it_means_and_what_to_do(name: str) -> None:
    text = alerts()[name]
    assert re.search(r"severity: (critical|warning) }", text)
    summary = re.search(r'^ +summary: "(.+)"$', text, re.MULTILINE)
    description = re.search(r"^ +description: >-\n((?: {12}.*\n)+)", text, re.MULTILINE)
    assert summary
    assert description
    assert re.search(r"{{ \$labels\.(service|instance) }}: ", summary[1]), "whose alert it is comes first"
    assert re.search(r"`(proxyctl|journalctl|systemctl) [^`]+`", " ".join(description[1].split())), (
        "a command to begin with"
    )


# The alerts, as Prometheus decides them.


class Situation(NamedTuple):
    given: list[dict[str, str]]
    fires: dict[str, list[dict[str, str]]]
    """The labels of what fires, by alert; no other one does."""
    spares: tuple[str, ...] = ()
    """What this is to look like, almost."""
    at: str = "10m"


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    """A sample every 30 s: the 21st is that of ten minutes. `1x3` are four of them, `_x3` are three gaps."""
    pairs = ",".join(f'{key}="{value}"' for key, value in {"job": "proxyctl", "instance": "a", **labels}.items())
    return {"series": f"{name}{{{pairs}}}", "values": values}


def fires(name: str, *labels: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    return {name: [{"job": "proxyctl", "instance": "a", **each} for each in labels]}


def rotation(generation: int, version: str, values: str) -> dict[str, str]:
    """Whether a generation is in rotation; it starts a minute after the one before it, and goes."""
    labels = {**WEB, "version": version, "generation": str(generation), "replica": "0"}
    return series("proxy_backend_up", f"_x{2 * generation} {values} _x20", **labels)


def drain(generation: int, connections: str, deadline: str, **labels: str) -> list[dict[str, str]]:
    """A generation's drain. The version of the first one is v1."""
    labels = {**WEB, "version": f"v{generation}", "generation": str(generation), **labels}
    return [
        series("proxy_drain_active_connections", connections, **labels),
        series("proxy_drain_deadline_timestamp_seconds", deadline, **labels),
    ]


def without_annotations(rules: str) -> str:
    """The sentences are for people to judge; promtool would compare them word by word."""
    return re.sub(r"^        annotations:\n(?:          .*\n)+", "", rules, flags=re.MULTILINE)


WEB = {"service": "web"}
V1 = {"service": "web", "version": "v1", "generation": "1"}
V2 = {"service": "web", "version": "v2", "generation": "2"}
R1, R2 = {**V1, "replica": "0"}, {**V2, "replica": "0"}
STEER = {"configured": "steer", **WEB}
COUNTERS = {
    "proxy_connections_refused_total": {"reason": "no_backend", **WEB},
    "proxy_backend_restarts_total": {"version": "v1", **WEB},
    "proxy_worker_restarts_total": {},
    "proxy_control_starts_total": {"how": "adopted"},
    "proxy_swaps_total": {"result": "failed", **WEB},
    "proxy_drain_forced_connections_total": WEB,
    "proxy_upgrades_total": {"result": "failed"},
}
OF_COUNTERS = (
    "ProxyctlConnectionsRefused", "ProxyctlBackendRestarts", "ProxyctlWorkerRestarts", "ProxyctlControlRestarted",
    "ProxyctlSwapFailed", "ProxyctlDrainForced", "ProxyctlUpgradeFailed",
)  # fmt: skip
DOWN = "ProxyctlNoHealthyGeneration"

SITUATIONS: dict[str, Situation] = {
    "all is well, whatever was once, and an old generation that drains has lost its process": Situation(
        [
            series("up", "1x20"),
            series("proxy_active_generation", "2x20", **WEB),
            series("proxy_backend_up", "0x20", **R1),
            series("proxy_backend_up", "1x20", **R2),
            series("proxy_worker_up", "1x20", worker="0"),
            series("proxy_trouble", "0x20", kind="state"),
            *(series(name, "7x20", **labels) for name, labels in COUNTERS.items()),
        ],
        {},
        spares=(*OF_COUNTERS, DOWN, "ProxyctlReplicaUnhealthy", "ProxyctlWorkerDown", "ProxyctlStateNotWritable"),
    ),
    "an ordinary swap, of which a connection is left, and the new version is slow to start": Situation(
        [
            series("proxy_active_generation", "1x17 2x3", **WEB),
            series("proxy_backend_up", "1x20", **R1),
            series("proxy_backend_up", "_x8 0x8 1x3", **R2),
            series("proxy_drain_active_connections", "_x18 2 1 1", **V1),
            series("proxy_drain_deadline_timestamp_seconds", "_x18 602x2", **V1),
            series("proxy_swaps_total", "3x19 4", result="swapped", **WEB),
            series("proxy_swaps_total", "1x20", result="failed", **WEB),
            series("proxy_drain_forced_connections_total", "2x20", **WEB),
        ],
        {},
        spares=(
            DOWN,
            "ProxyctlReplicaUnhealthy",
            "ProxyctlDrainNearDeadline",
            "ProxyctlDrainStuck",
            "ProxyctlSwapFailed",
        ),
    ),
    "the proxy was stopped and started again: all counters are at zero": Situation(
        [
            series("up", "1x9 0 1x10"),
            series("proxy_control_starts_total", "1x9 _ 1x10", how="first"),
            series("proxy_active_generation", "2x9 _ 3x10", **WEB),
            series("proxy_backend_up", "1x9 _x11", **R2),
            series("proxy_backend_up", "_x10 0 1x9", **{**R2, "generation": "3"}),
            *(series(name, "7x9 _ 0x10", **labels) for name, labels in COUNTERS.items()),
        ],
        {},
        spares=(*OF_COUNTERS, "ProxyctlDown", "ProxyctlGenerationFlapping"),
    ),
    "the active generation is sick while an old one that drains is not": Situation(
        [
            series("proxy_active_generation", "2x20", **WEB),
            series("proxy_backend_up", "1x20", **R1),
            series("proxy_backend_up", "1x16 0x4", **R2),
        ],
        fires(DOWN, WEB),
        spares=("ProxyctlReplicaUnhealthy",),
    ),
    "of two proxies, and two jobs that know one of them, each is judged by itself": Situation(
        [
            series("proxy_active_generation", "1x20", **WEB),
            series("proxy_backend_up", "1x20", **R1),
            series("proxy_active_generation", "1x20", **WEB, instance="b"),
            series("proxy_backend_up", "0x20", **R1, instance="b"),
            series("proxy_active_generation", "2x20", **WEB, job="proxyctl-elsewhere"),
            series("proxy_backend_up", "1x20", **R1, job="proxyctl-elsewhere"),
            series("proxy_backend_up", "0x20", **R2, job="proxyctl-elsewhere"),
            series("proxy_swaps_total", "0x10 1x10", result="failed", **WEB, instance="b"),
            series("proxy_swaps_total", "1x20", result="failed", **WEB),
        ],
        fires(DOWN, {**WEB, "instance": "b"}, {**WEB, "job": "proxyctl-elsewhere"})
        | fires("ProxyctlReplicaUnhealthy", {**R1, "instance": "b"}, {**R2, "job": "proxyctl-elsewhere"})
        | fires("ProxyctlSwapFailed", {**WEB, "result": "failed", "instance": "b"}),
    ),
    "a backend that starts with the proxy takes half a minute": Situation(
        [series("proxy_active_generation", "_x19 1x1", **WEB), series("proxy_backend_up", "_x19 0x1", **R1)],
        {},
        spares=(DOWN,),
    ),
    "a service is being removed, or the proxy stopped: it has no active generation": Situation(
        [series("proxy_active_generation", "1 0x19", **WEB), series("proxy_backend_up", "1x20", **R1)],
        {},
        spares=(DOWN,),
    ),
    "one replica of two is sick": Situation(
        [
            series("proxy_active_generation", "1x20", **WEB),
            series("proxy_backend_up", "1x20", **R1),
            series("proxy_backend_up", "1x10 0x10", **V1, replica="1"),
        ],
        fires("ProxyctlReplicaUnhealthy", {**V1, "replica": "1"}),
        spares=(DOWN,),
    ),
    "a version answers one request in five with 500, one with 502 for a moment, one hardly ever": Situation(
        [
            series("proxy_http_requests_total", "0+4x20", **V2, code="200"),
            series("proxy_http_requests_total", "0+1x20", **V2, code="500"),
            series("proxy_http_requests_total", "0+9x20", **V1, code="200"),
            series("proxy_http_requests_total", "0x18 9x2", **V1, code="502"),
            series("proxy_http_requests_total", "0+97x20", **WEB, version="v3", generation="3", code="200"),
            series("proxy_http_requests_total", "0+3x20", **WEB, version="v3", generation="3", code="500"),
        ],
        fires("ProxyctlVersionFails", {**WEB, "version": "v2"}),
        spares=("ProxyctlVersionFails",),
    ),
    "hardly anybody asks, the proxy itself says 503, and an old version has failed long ago": Situation(
        [
            series("proxy_http_requests_total", "0x12 1x8", **V2, code="200"),
            series("proxy_http_requests_total", "0x12 1x8", **V2, code="500"),
            series("proxy_http_requests_total", "100x20", **V1, code="500"),
            series("proxy_http_requests_total", "0+5x20", **WEB, version="", generation="", code="503"),
        ],
        {},
        spares=("ProxyctlVersionFails",),
    ),
    "a backend died three times, another one twice": Situation(
        [
            series("proxy_backend_restarts_total", "0x10 3x10", **WEB, version="v1"),
            series("proxy_backend_restarts_total", "_ 1x9 3x9", **WEB, version="v2"),
        ],
        fires("ProxyctlBackendRestarts", {**WEB, "version": "v1"}),
        spares=("ProxyctlBackendRestarts",),
    ),
    "a replica was out of rotation three times, a new one twice": Situation(
        [
            series("proxy_backend_up", "1x5 0 1 1 0 1 1 0 1x8", **R1),
            series("proxy_backend_up", "_x3 0 1 0 1 1 0 1x11", **R2),
        ],
        fires("ProxyctlReplicaFlapping", R1),
        spares=("ProxyctlReplicaFlapping",),
    ),
    "v1 and v2 take turns": Situation(
        [rotation(number, "v1" if number % 2 else "v2", "0 1 1") for number in range(1, 8)],
        fires("ProxyctlGenerationFlapping", WEB),
    ),
    "seven versions in ten minutes, and some of them failed to start": Situation(
        [rotation(number, f"v{number}", "0 1 1" if number % 3 else "0 0 0") for number in range(1, 8)]
        + [series("proxy_active_generation", "1x4 2x4 4x4 5x4 7x4", **WEB)],
        {},
        spares=("ProxyctlGenerationFlapping",),
    ),
    "twice in a row a new version fell over, and the old one took over again": Situation(
        [series("proxy_active_generation", "1x4 2x4 1x4 3x4 1x4", **WEB)], fires("ProxyctlGenerationFlapping", WEB)
    ),
    "v2 was rolled back twice, and deployed a third time": Situation(
        [rotation(number, "v1" if number % 2 else "v2", "0 1 1") for number in range(1, 6)],
        {},
        spares=("ProxyctlGenerationFlapping",),
    ),
    "a rollback to a warm generation, once": Situation(
        [series("proxy_active_generation", "1x4 2x4 1x12", **WEB)], {}, spares=("ProxyctlGenerationFlapping",)
    ),
    "a worker died": Situation(
        [
            series("proxy_worker_restarts_total", "0x10 1x10"),
            series("proxy_worker_up", "1x19 0", worker="0"),
            series("proxy_worker_up", "1x20", worker="1"),
        ],
        fires("ProxyctlWorkerRestarts", {}),
        spares=("ProxyctlWorkerDown",),
    ),
    "a worker cannot be started": Situation(
        [series("proxy_worker_up", "1x10 0x10", worker="0")], fires("ProxyctlWorkerDown", {"worker": "0"})
    ),
    "control died and was started again": Situation(
        [series("up", "1x18 0 1"), series("proxy_control_starts_total", "0x18 _ 1", how="adopted")],
        fires("ProxyctlControlRestarted", {"how": "adopted"}),
        spares=("ProxyctlDown",),
    ),
    "an upgrade went well, another one failed": Situation(
        [
            series("up", "1x19 0"),
            series("proxy_control_starts_total", "0x10 1x10", how="upgraded"),
            series("proxy_control_starts_total", "0x20", how="adopted"),
            series("proxy_upgrades_total", "0x10 1x10", result="upgraded"),
            series("proxy_upgrades_total", "0x12 1x8", result="failed"),
        ],
        fires("ProxyctlUpgradeFailed", {"result": "failed"}),
        spares=("ProxyctlControlRestarted", "ProxyctlDown"),
    ),
    "a swap failed, another was rolled back": Situation(
        [
            series("proxy_swaps_total", "0x10 1x10", result="failed", **WEB),
            series("proxy_swaps_total", "1x10 2x10", result="rolled_back", **WEB),
            series("proxy_swaps_total", "1x10 9x10", result="swapped", **WEB),
        ],
        fires("ProxyctlSwapFailed", {**WEB, "result": "failed"}, {**WEB, "result": "rolled_back"}),
    ),
    "a long drain will be cut short in 90 s; others have nobody left, have just begun, or have more time": Situation(
        [
            *drain(1, "1x20", "690x20"),
            *drain(2, "5x10 0x10", "690x20"),
            *drain(3, "_x16 5x4", "_x16 610x4"),
            *drain(4, "5x20", "800x20"),
            *drain(1, "5x20", "4000x20", job="proxyctl-elsewhere"),
        ],
        fires("ProxyctlDrainNearDeadline", V1),
        spares=("ProxyctlDrainNearDeadline",),
    ),
    "a drain was cut short": Situation(
        [series("proxy_drain_forced_connections_total", "0x10 3x10", **WEB)], fires("ProxyctlDrainForced", WEB)
    ),
    "a drain goes on behind its deadline; others have just met it, have time, or are over and only a bake keeps them": (
        Situation(
            [
                *drain(1, "_x15 1x5", "_x15 500x5"),
                *drain(2, "0x20", "100x20"),
                *drain(3, "_x18 5x2", "_x18 560x2"),
                *drain(4, "5x20", "4000x20"),
                *drain(1, "5x20", "4000x20", job="proxyctl-elsewhere"),
            ],
            fires("ProxyctlDrainStuck", V1),
            spares=("ProxyctlDrainStuck",),
        )
    ),
    "clients were turned away": Situation(
        [series("proxy_connections_refused_total", "0x18 1x2", reason="no_backend", **WEB)],
        fires("ProxyctlConnectionsRefused", {**WEB, "reason": "no_backend"}),
    ),
    "nobody answers the scrape, and something else is down too": Situation(
        [series("up", "0x20"), series("up", "0x20", job="node")], fires("ProxyctlDown", {})
    ),
    "a proxy in a job of another name is gone": Situation(
        [
            series("up", "1x5 0x15", job="edge"),
            series("up", "0x20", job="edge", instance="something else"),
            series("proxy_build_info", "1x5 _x15", job="edge", version="1.0.0", python="3.12.0"),
            series("proxy_build_info", "_x3 1x2 _x15", job="edge", version="1.0.1", python="3.12.0"),
        ],
        fires("ProxyctlDown", {"job": "edge"}),
    ),
    "the state cannot be written, and the clock was set": Situation(
        [series("proxy_trouble", "1x20", kind="state"), series("proxy_trouble", "1x20", kind="clock")],
        fires("ProxyctlStateNotWritable", {"kind": "state"}),
        spares=("ProxyctlStateNotWritable",),
    ),
    "the kernel cannot steer a service": Situation(
        [series("proxy_datapath", "1x20", effective="relay", **STEER)],
        fires("ProxyctlNotSteered", {**STEER, "effective": "relay"}),
    ),
    "the kernel steers a service, after a moment, and another one is not to be steered": Situation(
        [
            series("proxy_datapath", "1x5 _x15", effective="relay", **STEER),
            series("proxy_datapath", "_x5 1x15", effective="steer", **STEER),
            series("proxy_datapath", "1x20", configured="relay", effective="relay", service="other"),
        ],
        {},
        spares=("ProxyctlNotSteered",),
    ),
}


def test_there_is_a_situation_for_each_alert_and_one_that_is_none_for_it() -> None:
    assert {name for situation in SITUATIONS.values() for name in situation.fires} == set(alerts())
    spared = {name for situation in SITUATIONS.values() for name in situation.spares}
    assert spared == set(alerts())


@pytest.mark.parametrize("name", SITUATIONS)
def test_each_alert_fires_when_it_is_due_and_only_then(name: str, tmp_path: Path) -> None:
    situation = SITUATIONS[name]
    (tmp_path / "alerts.yml").write_text(without_annotations(ALERTS.read_text()))
    shutil.copy(RECORDING, tmp_path)
    text = alerts()
    expected: list[dict[str, Any]] = []
    for alert in text:
        severity = re.findall(r"severity: (\w+)", text[alert])[0]
        labels = [{**each, "severity": severity} for each in situation.fires.get(alert, [])]
        expected.append(
            {"alertname": alert, "eval_time": situation.at, "exp_alerts": [{"exp_labels": each} for each in labels]}
        )
    test = {"interval": "30s", "input_series": situation.given, "alert_rule_test": expected}
    path = tmp_path / "test.yml"
    rules = {"rule_files": ["recording.yml", "alerts.yml"], "group_eval_order": ["proxyctl-recording", "proxyctl"]}
    path.write_text(json.dumps({**rules, "evaluation_interval": "15s", "tests": [test]}))
    promtool("test", "rules", str(path))


@pytest.mark.parametrize("name", alerts())
def test_no_sentence_has_a_gap_where_a_label_was_meant(name: str) -> None:
    labels = [set(each) for situation in SITUATIONS.values() for each in situation.fires.get(name, [])]
    named = set(re.findall(r"\$labels\.(\w+)", alerts()[name]))
    assert [each for each in labels if not named <= each] == []


# The dashboard.


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dashboard()["panels"]
    return found


def queries() -> list[str]:
    targets = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    return targets + [each["expr"] for each in dashboard()["annotations"]["list"] if "expr" in each]


def test_every_panel_and_query_of_the_dashboard_can_be_told_from_the_others() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    titles = [panel["title"] for panel in panels()]
    assert len(titles) == len(set(titles))
    for panel in panels():
        references = [target["refId"] for target in panel.get("targets", ())]
        assert len(references) == len(set(references))


def test_no_panel_of_the_dashboard_hides_another_one_or_leaves_a_hole() -> None:
    taken: list[tuple[int, int]] = []
    for panel in panels():
        place = panel["gridPos"]
        taken += [(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])]
    height = max(y for _, y in taken) + 1
    assert sorted(taken) == sorted((x, y) for x in range(24) for y in range(height))


def test_every_panel_says_what_it_shows_and_in_which_unit() -> None:
    for panel in panels():
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_the_dashboard_is_of_a_form_that_current_releases_read_and_asks_the_data_source_that_is_chosen() -> None:
    board = dashboard()
    assert board["schemaVersion"] >= 39
    assert board["id"] is None, "it gets one where it is imported"
    asking = [*panels(), *board["annotations"]["list"], *board["templating"]["list"]]
    asking += [target for panel in panels() for target in panel.get("targets", ())]
    sources = [each["datasource"] for each in asking if "datasource" in each]
    own = {"type": "grafana", "uid": "-- Grafana --"}  # of the list that every dashboard has
    assert [source for source in sources if source not in ({"type": "prometheus", "uid": "${datasource}"}, own)] == []
    assert sources.count(own) == 1
    rows = [panel for panel in panels() if panel["type"] == "row"]
    assert all("datasource" in panel for panel in panels() if panel not in rows)


def test_every_query_of_the_dashboard_is_about_what_was_chosen_above_it() -> None:
    of_services = {name for name in series_names() if _has_service(name)}
    for query in queries():
        selectors = re.findall(r"((?:\w+:)?(?:proxy_|ALERTS)\w*(?::\w+)?)({[^}]*})?", query)
        assert selectors, query
        for name, matchers in selectors:
            assert 'job=~"$job",instance=~"$instance"' in matchers, (name, query)
            is_of_service = "service" in name.partition(":")[0] if ":" in name else name in of_services
            assert ('service=~"$service"' in matchers) == is_of_service, (name, query)
        # What begins anew is not scraped for a while: the value before that is looked for in the last five minutes.
        ranges = re.findall(r"\[(\w+)\]", re.sub(r"last_over_time\(([^[]*)\[5m\]", "", query))
        assert ranges == [], f"a range that is not the dashboard's: {query}"


def _has_service(name: str) -> bool:
    page = Path(__file__).with_name("metrics_page.txt").read_text()
    return bool(re.search(rf'^{name}{{.*\bservice="', page, re.MULTILINE))


def test_the_choices_above_the_dashboard_follow_from_each_other() -> None:
    source, *others = dashboard()["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert [each["name"] for each in others] == ["job", "instance", "service"]
    for number, variable in enumerate(others):
        assert variable["query"]["query"] == variable["definition"]
        assert set(re.findall(r"\$(\w+)", variable["definition"])) == {each["name"] for each in others[:number]}
        assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ".*")
