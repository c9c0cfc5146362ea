"""A real Prometheus watches a real proxy through a bad day, by what is in conf/: it has to have seen all of it.

With SAVE_PICTURES=1 the day is longer, and docs/dashboard.svg is what the dashboard shows of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.catalog import CONTRACT
from tests.e2e import configs, http_harness
from tests.e2e.crash_harness import Calm, KeptLoad
from tests.e2e.dashboard_picture import Picture
from tests.e2e.harness import eventually, free_port, held, kill
from tests.e2e.monitoring import Dashboard, Line, Nagging, Prometheus, named
from tests.e2e.releases import Releases
from tests.e2e.steer.harness import Steered
from tests.test_readme import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

SAVE = os.environ.get("SAVE_PICTURES") == "1"
PICTURE = Path(__file__).parents[2] / "docs/dashboard.svg"
INTERVAL = 1.0 if SAVE else 0.5
# For how long series of generations that are gone are shown, in the releases under test.
LIFETIME = 300.0 if SAVE else 3.0
FORCED = 3
KEPT = 4 if SAVE else 2


class Watched(Steered):
    """A proxy of the release that is installed in `releases`. It may be killed: `kill` ends what outlives it."""

    releases: Releases

    def start(self, *, wait: bool = True, point: str = "") -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "proxy.cli", "run", str(self.config)],
                stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(self.releases.current)},
            )  # fmt: skip
        if wait:
            self.wait_ready()

    def kill(self) -> None:
        with suppress(PermissionError):  # an ordinary user may not look at what is steered, and nothing of theirs is
            super().kill()


@dataclass
class Story:
    """What is left of it when it has been told. Everything is asked as of its end, whenever that is done."""

    proxy: Watched
    prometheus: Prometheus
    began: float
    ended: float
    fell_back: bool
    """Whether the service that is to be steered is relayed, which is up to the machine."""

    def value(self, expression: str) -> float | None:
        """The one value; None when there is none."""
        return self.prometheus.value(expression, self.ended)

    def values(self, expression: str, label: str) -> dict[str, float]:
        """By a label."""
        return {each.labels.get(label, ""): each.value for each in self.prometheus.query(expression, self.ended)}

    @property
    def instance(self) -> str:
        """What Prometheus calls the proxy."""
        return self.prometheus.target

    @cached_property
    def dashboard(self) -> Dashboard:
        return Dashboard(self.prometheus, self.began, self.ended)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("watched")
    releases = Releases(folder / "releases")
    releases.install(releases.make("1.0.0", SERIES_LIFETIME=LIFETIME))
    admin, ports = 9900 if SAVE else free_port(), {name: free_port() for name in ("web", "feed", "live")}
    proxy = Watched(folder, _config(folder, ports), admin=f'listen = "127.0.0.1:{admin}"')
    proxy.releases = releases
    with Prometheus(folder, admin, interval=INTERVAL) as prometheus, proxy:
        prometheus.wait_ready()
        prometheus.wait("up == 1")
        began = time.time()
        _tell(proxy, prometheus, ports)
        fell_back = proxy.service("live")["datapath"] != "steer"
        # The moment of a scrape: later there may be one that was too slow on a busy machine, with nothing to show.
        ended = eventually(lambda: prometheus.value("timestamp(up == 1)"), what="a scrape")
        yield Story(proxy, prometheus, began, ended, fell_back)


def _config(folder: Path, ports: dict[str, int]) -> str:
    """Three services: HTTP, TCP, and one that is steered where the machine allows it."""
    keys = 'connect_timeout = "20s"'
    # Long enough for its checks, which fail, to be scraped more than once.
    late = configs.command("sh", "-c", f"sleep {3 * INTERVAL}; exit 3")
    web = {"v1": configs.backend(replicas=2), "v2": configs.backend(replicas=2), "broken": late}
    web["v3"] = configs.backend(f"--sick={folder / 'sick'}", replicas=2)
    (folder / "sick").touch()
    return (
        "workers = 2\n"
        + http_harness.service(ports["web"], name="web", keys=keys, **web)
        + configs.service(ports["feed"], name="feed", keys=keys)
        + configs.service(ports["live"], name="live", keys=f'datapath = "steer"\n{keys}')
    )


def _pause(seconds: float) -> None:
    """For the picture alone: a reader wants to tell one thing that happens from the next."""
    if SAVE:
        time.sleep(seconds)


def _tell(proxy: Watched, prometheus: Prometheus, ports: dict[str, int]) -> None:
    """Each step is over when Prometheus has seen it."""
    wait = prometheus.wait
    with ExitStack() as stack:
        for port in ports.values():
            stack.enter_context(Calm(port, 4 if SAVE else 1))
        stack.enter_context(KeptLoad(ports["web"], KEPT))
        stack.enter_context(held(ports["feed"], FORCED))  # they would stay for ever
        wait("count(sum by (service) (proxy_connections_total) > 20) == 3")
        _pause(15)

        proxy.operate("swap", "web", version="v2")
        wait('proxy_active_generation{service="web"} == 2')
        wait("proxy_http_migrated_connections_total > 0")
        _pause(10)
        assert proxy.begin("swap", "web", version="broken", wait=True)["result"] == "failed"
        wait('proxy_swaps_total{service="web",result="failed"} == 1')
        _pause(10)

        proxy.operate("swap", "feed", version="v2", deadline="12s" if SAVE else "2s")
        wait(f'proxy_drain_forced_connections_total{{service="feed"}} == {FORCED}')
        _pause(8)
        proxy.operate("swap", "live", version="v2")
        wait('proxy_active_generation{service="live"} == 2')
        _pause(8)
        if not SAVE:
            wait('absent(proxy_connections_total{service="web",generation="1"}) and on () up == 1')

        (backend,) = proxy.pids("feed")
        kill(backend)
        eventually(lambda: proxy.pids("feed") not in ([backend], [None]), what="the backend is back")
        wait('proxy_backend_restarts_total{service="feed",version="v2"} == 1')
        _pause(8)
        kill(proxy.workers()[0])
        wait("proxy_worker_restarts_total == 1")
        wait("sum(proxy_worker_up) == 2")
        stack.enter_context(KeptLoad(ports["web"], KEPT))  # some of the first have lost their connections
        _pause(10)

        proxy.releases.install(proxy.releases.make("1.0.1", SERIES_LIFETIME=LIFETIME))
        proxy.ok("upgrade")
        wait('proxy_upgrades_total{result="upgraded"} == 1')
        _pause(10)
        proxy.crash()
        _pause(0.5)
        proxy.start()
        wait('proxy_control_starts_total{how="adopted"} == 1')
        _pause(10)

        for generation in (4, 5, 6):
            proxy.operate("restart", "web")
            wait(f'proxy_active_generation{{service="web"}} == {generation}')
            _pause(6)
        for _ in range(KEPT // 2):  # v3 is sick: what asks for that makes up more than a twentieth of its requests
            stack.enter_context(Nagging(ports["web"], "/health", rest=0.01))
        proxy.operate("swap", "web", version="v3")
        wait('job_instance_service_version:proxy_http_requests_5xx:ratio_rate5m{version="v3"} > 0.05')
        wait('job_instance_service_version:proxy_http_requests:rate5m{version="v3"} > 0.1')
        wait('ALERTS{alertname="ProxyctlGenerationFlapping",alertstate="firing"}')
        _pause(15)
        if not SAVE:
            wait('count(proxy_connections_total{service="web"}) == 1')


def shown(dashboard: Dashboard, title: str) -> dict[str, Line]:
    """What a panel shows, by legend."""
    (panel,) = [panel for panel in dashboard.panels if panel["title"] == title]
    return {named(target["legendFormat"], line): line for target in panel["targets"] for line in dashboard.ask(target)}


def last(dashboard: Dashboard, title: str) -> dict[str, float]:
    return {legend: line.points[-1][1] for legend, line in shown(dashboard, title).items()}


def highest(dashboard: Dashboard, title: str) -> dict[str, float]:
    return {legend: max(value for _, value in line.points) for legend, line in shown(dashboard, title).items()}


# What the proxy exports.


def test_no_counter_goes_backwards_whatever_dies_or_is_replaced(story: Story) -> None:
    families = story.proxy.metrics().families.values()
    names = {sample.name for family in families if family.type in ("counter", "histogram") for sample in family.samples}
    assert {name for name in CONTRACT if name.endswith("_total")} <= names | {"proxy_backend_connect_errors_total"}
    for name in names:
        assert story.prometheus.query(f"resets({name}[10m]) > 0", story.ended) == []
        assert story.value(f"min(count_over_time({name}[10m]))"), f"{name} was never scraped"


def test_what_happened_is_what_was_counted(story: Story) -> None:
    assert story.values('proxy_swaps_total{result="swapped"}', "service") == {"web": 5, "feed": 1, "live": 1}
    assert story.values('proxy_swaps_total{result="failed"}', "service") == {"web": 1, "feed": 0, "live": 0}
    assert story.values("proxy_drain_forced_connections_total", "service") == {"web": 0, "feed": FORCED, "live": 0}
    assert story.values('proxy_drain_completed_total{service="feed"}', "outcome") == {"forced": 1, "drained": 0}
    assert story.values("proxy_active_generation", "service") == {"web": 7, "feed": 2, "live": 2}
    assert story.values("sum by (service) (proxy_backend_restarts_total)", "service") == {
        "web": 0,
        "feed": 1,
        "live": 0,
    }
    assert story.values("proxy_control_starts_total", "how") == {"first": 1, "upgraded": 1, "adopted": 1}
    assert story.values("proxy_upgrades_total", "result") == {"upgraded": 1, "failed": 0}
    assert story.value("proxy_worker_restarts_total") == 1
    assert story.value("sum(proxy_connections_refused_total)") == 0
    assert story.value('proxy_http_requests_total{service="web",version="v3",code="503"}')


@pytest.mark.skipif(SAVE, reason="then they are to stay")
def test_series_of_generations_that_are_gone_end(story: Story) -> None:
    for name in ("proxy_connections_total", "proxy_received_bytes_total", "proxy_http_requests_in_flight"):
        series = story.prometheus.query(f'{name}{{service="web"}}', story.ended)
        assert {(each.labels["version"], each.labels["generation"]) for each in series} == {("v3", "7")}
    assert story.values('proxy_health_checks_total{service="web",result="ok"}', "version").keys() == {"v3"}
    began = 'count by (generation) (count_over_time(proxy_connections_total{service="web"}[10m]))'
    assert story.values(began, "generation").keys() == {"1", "2", "4", "5", "6", "7"}


# The rules.


FIRED = {
    "ProxyctlSwapFailed",
    "ProxyctlDrainForced",
    "ProxyctlWorkerRestarts",
    "ProxyctlControlRestarted",
    "ProxyctlGenerationFlapping",
}
# It is so, but not for long enough.
PENDING = {"ProxyctlVersionFails"}


def test_every_rule_is_one_that_prometheus_can_evaluate_and_that_holds_when_it_should(story: Story) -> None:
    rules = story.prometheus.rules()
    assert {rule["type"] for rule in rules} == {"recording", "alerting"}
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    holds = {rule["name"] for rule in rules if story.prometheus.query(rule["query"], story.ended)}
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    assert holds == recorded | FIRED | PENDING | ({"ProxyctlNotSteered"} if story.fell_back else set())
    for name in recorded:
        assert story.values(name, "service"), name


def test_what_was_no_trouble_woke_nobody_and_what_was_did(story: Story) -> None:
    fired = 'count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[10m]))'
    assert story.values(fired, "alertname").keys() == FIRED


def test_who_is_woken_reads_of_what_it_was(story: Story) -> None:
    alerts = [alert for rule in story.prometheus.rules() for alert in rule.get("alerts", ())]
    told = {alert["labels"]["alertname"]: alert["annotations"] for alert in alerts}
    assert told["ProxyctlSwapFailed"]["summary"] == "web: a swap ended as failed"
    assert "`proxyctl history --service web`" in told["ProxyctlSwapFailed"]["description"]
    assert told["ProxyctlDrainForced"]["summary"] == "feed: connections were cut at the drain deadline"
    assert told["ProxyctlDrainForced"]["description"].startswith(f"{FORCED} connections had not ended")
    assert told["ProxyctlVersionFails"]["summary"].startswith("web: v3 answers ")
    sentences = [sentence for each in told.values() for sentence in each.values()]
    assert [sentence for sentence in sentences if "<" in sentence or "{{" in sentence] == []


def test_the_queries_of_the_readme_show_who_serves_and_what_was_lost(story: Story) -> None:
    serving, lost = blocks("promql")
    found = story.prometheus.query(serving, story.ended)
    busy = {(each.labels["service"], each.labels["version"]) for each in found if each.value}
    assert busy >= {("web", "v3"), ("feed", "v2"), ("live", "v2")}
    assert {name: round(value) for name, value in story.values(lost, "service").items()} == {
        "web": 0,
        "feed": FORCED,
        "live": 0,
    }


# The dashboard.


# Panels' queries that are about what need not happen, or what the machine decides.
MAY_BE_EMPTY = {("Turned away, and connects that failed", "B"), ("Data path", "B")}


def test_no_panel_of_the_dashboard_is_empty(story: Story) -> None:
    dashboard = story.dashboard
    for panel in dashboard.panels:
        for target in panel.get("targets", ()):
            lines = dashboard.ask(target)
            assert lines or (panel["title"], target["refId"]) in MAY_BE_EMPTY, (panel["title"], target["expr"])
            assert all(named(target["legendFormat"], line) for line in lines), panel["title"]


def test_the_dashboard_shows_what_happened(story: Story) -> None:
    dashboard = story.dashboard
    assert last(dashboard, "Serving") == {"web v3 #7": 2, "feed v2 #2": 1, "live v2 #2": 1}
    assert last(dashboard, "Swaps") == {"swapped": 7, "failed": 1, "rolled_back": 0}
    assert last(dashboard, "Connections lost") == {"cut": FORCED, "turned away": 0}
    assert last(dashboard, "Alerts").keys() == FIRED
    assert all(story.began < at / 1000 < story.ended for at in last(dashboard, "Last swap").values())
    total = {
        legend: sum(value for _, value in line.points) for legend, line in shown(dashboard, "Swaps, by result").items()
    }
    swaps = {("web", "swapped"): 5, ("web", "failed"): 1, ("feed", "swapped"): 1, ("live", "swapped"): 1}
    assert {legend: count for legend, count in total.items() if count} == {" ".join(key): n for key, n in swaps.items()}
    versions = {f"{name} {version}" for name in ("web", "feed", "live") for version in ("v1", "v2")} | {"web v3"}
    served = highest(dashboard, "New connections, by version")
    assert served.keys() == versions
    assert all(served.values())
    assert {"web v1 200", "web v2 200", "web v3 200", "web v3 503"} <= shown(
        dashboard, "HTTP requests, by version and status"
    ).keys()
    assert highest(dashboard, "Connections that drain")["feed v1 #1"] == FORCED
    assert 0 < highest(dashboard, "Time to the drain deadline")["feed v1 #1"] < (12 if SAVE else 2)
    replicas = highest(dashboard, "Replicas in rotation")
    assert (replicas["web v2 #2"], replicas["web broken #3"]) == (2, 0)
    assert highest(dashboard, "Failed health checks")["web broken"]
    assert highest(dashboard, "Workers") == {f"{story.instance} worker 0": 1, f"{story.instance} worker 1": 1}
    assert set(last(dashboard, "Trouble").values()) == {0}
    assert last(dashboard, "Data path")["live: relay for steer" if story.fell_back else "live: steer"]
    assert highest(dashboard, "HTTP requests answered 5xx")["web v3"] > 0.05


def test_marks_on_the_dashboard_are_when_swaps_began_and_ended(story: Story) -> None:
    history = story.proxy.ask("GET", "/v1/history")[1]["history"]
    titles = {"swapped": "swapped", "failed": "the swap failed"}
    ends = {(each["finished"], f"{each['service']}: {titles[each['result']]}") for each in history}
    begins = {(each["started"], f"{each['service']}: a swap begins") for each in history}
    _, *annotations = story.dashboard.board["annotations"]["list"]
    marks = {each["name"]: set(story.dashboard.events(each)) for each in annotations}
    assert marks["Swap begins"] <= begins
    assert marks["Swapped"] | marks["Swap failed"] <= ends
    assert (len(marks["Swap failed"]), len(marks["Rolled back"])) == (1, 0)
    for service in ("feed", "live", "web"):  # of what follows within a scrape, the last is seen
        assert [title for _, title in marks["Swap begins"] if title.startswith(service)]
        assert [title for _, title in marks["Swapped"] if title.startswith(service)]


def test_the_dashboard_shows_what_is_chosen_and_nothing_else(story: Story) -> None:
    dashboard = story.dashboard
    assert dashboard.choices("job") == {"proxyctl"}
    assert dashboard.choices("instance") == {story.instance}
    assert dashboard.choices("service") == {"web", "feed", "live"}
    of_feed = Dashboard(story.prometheus, story.began, story.ended, service="feed")
    of_nobody = Dashboard(story.prometheus, story.began, story.ended, instance="nobody")
    for panel in dashboard.panels:
        for target in panel.get("targets", ()):
            assert {line.labels.get("service", "feed") for line in of_feed.ask(target)} <= {"feed"}
            assert of_nobody.ask(target) == []


# Its picture.

# Nothing is drawn where nothing has happened.
QUIET = {"Turned away, and connects that failed"}


def test_the_picture_of_the_dashboard_has_every_panel_with_what_is_in_it(story: Story, tmp_path: Path) -> None:
    file = PICTURE if SAVE else tmp_path / "dashboard.svg"
    file.parent.mkdir(exist_ok=True)
    file.write_text(Picture(story.dashboard).svg())
    root = ET.parse(file).getroot()
    groups = {group.get("id"): group for group in root.iter("{http://www.w3.org/2000/svg}g")}
    assert len(groups) == len(story.dashboard.panels)
    for panel in story.dashboard.panels:
        drawn = list(groups[f"panel-{panel['id']}"].iter())
        assert any(panel["title"] in (part.text or "") for part in drawn), panel["title"]
        assert "No data" not in {part.text for part in drawn}, panel["title"]
        marks = [part for part in drawn if "mark" in part.get("class", "").split()]
        assert marks or panel["type"] == "row" or panel["title"] in QUIET, panel["title"]
    for part in root.iter():
        assert not {value for value in part.attrib.values() if "nan" in value or "inf" in value}, part.attrib
